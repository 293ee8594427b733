"""Text that a tower of its own encodes (a document, a caption, a protein), not the language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ._base import ModalitySpec, as_inputs


@dataclass(frozen=True, kw_only=True)
class TextSpec(ModalitySpec):
    """A string is the text itself; a `pathlib.Path` is a file that holds it."""

    medium = "text"
    processor_kind = "tokenizer"
    suffixes = (".txt",)

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> str:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        if not isinstance(text, str) or not text:
            raise ValueError(f"A non-empty string was expected for {self.name!r}, not {type(source).__name__}.")
        return text

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, both `(items, tokens)` int64."""
        return as_inputs(processor(items, padding=True, return_tensors="pt", **kwargs))

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> str:
        return " ".join(["text"] * (3 + 4 * size))
