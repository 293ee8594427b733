"""Text that a tower encodes instead of the language model (a document, a caption, a protein)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._base import ModalitySpec
from ._source import MediaError, describe, open_source, opened


@dataclass(frozen=True, kw_only=True)
class TextSpec(ModalitySpec):
    """A string is the text itself; a `pathlib.Path` is a file with the text."""

    medium = "text"
    processor_kind = "tokenizer"
    suffixes = (".txt",)

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> str:
        text = source
        if isinstance(source, Path):
            with opened(open_source(source, **access)) as file:
                try:
                    text = file.read().decode("utf-8")
                except UnicodeDecodeError as error:
                    raise MediaError(f"{describe(source)} is not UTF-8 text ({error}): save it as UTF-8.") from error
        if not isinstance(text, str) or not text.strip():
            raise MediaError(f"a {type(source).__name__} without text, expected a string or the Path of a file.")
        tokens = len(processor(text, verbose=False)["input_ids"])
        if tokens > processor.model_max_length:
            raise MediaError(
                f"The text has {tokens} tokens, but the tower reads at most {processor.model_max_length}: cut it."
            )
        return text

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> Mapping[str, Any]:
        """`input_ids` and `attention_mask`, both `(items, tokens)` int64."""
        return super().extract(items, processor, options, padding=True, **kwargs)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> str:
        return " ".join(["text"] * (3 + 4 * size))
