"""Text for ImageBind: CLIP's vocabulary, cleaned and padded as in the original."""

import html
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], length: int = 77, *, keep_end: bool = True
) -> torch.Tensor:
    """Ids of texts for the text tower, int64 `(texts, length)`: begin, words, end, then zeros.

    Args:
        tokenizer: CLIP's (`CLIPTokenizer.from_pretrained("openai/clip-vit-large-patch14")`).
        length: ids per text; longer texts are cut.
        keep_end: cut words, as ImageBind does, and not the end token, as PandaGPT's copy does (it does not use text).
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    result = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in zip(result, texts, strict=True):
        words = tokenizer(_clean(text), add_special_tokens=False, verbose=False)["input_ids"]
        ids = [begin, *words[: length - 2], end] if keep_end else [begin, *words, end][:length]
        row[: len(ids)] = torch.tensor(ids)
    return result


def _clean(text: str) -> str:
    """The text without HTML entities (also double-escaped ones) and, if ftfy is installed, broken encodings."""
    try:
        from ftfy import fix_text
    except ImportError:
        fix_text = str
    return html.unescape(html.unescape(fix_text(text))).strip()
