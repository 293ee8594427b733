"""Replacements for names in `upstream` that older Transformers lack. Raising the lower bound deletes code here."""

from transformers import PreTrainedTokenizerBase


# --- before 5.23 -----------------------------------------------------------------------------------------------------


class DummyLayer:
    supports_early_init = False


# --- before 5.20: control tokens that were typed into a chat -----------------------------------------------------------


def _encode_chat_piece(
    tokenizer: PreTrainedTokenizerBase, piece: str, as_text: bool, newline_ids: list[int]
) -> list[int]:
    """Ids of a piece that follows others; after a line end no blank is put before it."""
    settings = {"split_special_tokens": True} if as_text else {}
    ids = tokenizer.encode("\n" + piece, add_special_tokens=False, **settings)
    if ids[: len(newline_ids)] == newline_ids:
        return ids[len(newline_ids) :]
    return tokenizer.encode(piece, add_special_tokens=False, **settings)
