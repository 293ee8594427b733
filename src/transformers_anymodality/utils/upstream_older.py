"""What older versions of Transformers lack of `upstream`, with the same result; who raises the lower bound deletes here."""

import re
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template


# --- before 5.23 -----------------------------------------------------------------------------------------------------


class DummyLayer:
    supports_early_init = False


def is_torchcodec_usable(decode: str) -> bool:
    try:
        import torchcodec
    except Exception:  # whatever a library without its own libraries raises
        return False
    return decode == "image" or getattr(torchcodec, "ffmpeg_major_version", 0) is not None


# --- before 5.20: control tokens that were typed into a chat -----------------------------------------------------------

# Private characters; a text that holds them is rid of them, so that nobody forges a mark.
_START, _END = "\ue200", "\ue201"


@lru_cache
def control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, ...]:
    """Special tokens, and other added ones that the template writes, but for blanks."""
    environment = _compile_jinja_template(template).environment
    written = "\0".join(str(text) for _, kind, text in environment.lex(template) if kind in ("data", "string"))
    added = tokenizer.added_tokens_decoder.values()
    return tuple(t.content for t in added if t.special or (t.content in written and not t.content.isspace()))


@lru_cache
def _get_control_token_patterns(tokens: tuple[str, ...]) -> tuple[re.Pattern, re.Pattern]:
    """Finds tokens; and marked ones (group 1), or a mark alone."""
    one = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"
    return re.compile(one), re.compile(f"{_START}({one}){_END}|[{_START}{_END}]")


def mark_control_tokens(value: Any, pattern: re.Pattern) -> Any:
    if isinstance(value, str):
        return pattern.sub(rf"{_START}\g<0>{_END}", re.sub(f"[{_START}{_END}]", "", value))
    if isinstance(value, dict):
        return {key: mark_control_tokens(entry, pattern) for key, entry in value.items()}
    return [mark_control_tokens(entry, pattern) for entry in value] if isinstance(value, (list, tuple)) else value


def _encode_chat_piece(
    tokenizer: PreTrainedTokenizerBase, piece: str, as_text: bool, newline_ids: list[int]
) -> list[int]:
    """Ids of a piece that follows others; behind a line end no blank is put in front of it."""
    settings = {"split_special_tokens": True} if as_text else {}
    ids = tokenizer.encode("\n" + piece, add_special_tokens=False, **settings)
    if ids[: len(newline_ids)] == newline_ids:
        return ids[len(newline_ids) :]
    return tokenizer.encode(piece, add_special_tokens=False, **settings)
