"""Shows a sample as the model gets it: its tokens, which of them are learned, and its media; as text or as a page."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from anymodality.plain.printing import visible

from ..modalities import MODALITIES, MediaError
from ..processing.tokenization import Prompt
from .collator import AnyModalityDataCollator
from .figures import figures, write_html
from .records import located, name_of, read_chat


GREEN, BLUE, PLAIN = "\x1b[1;32m", "\x1b[34m", "\x1b[0m"


@dataclass(frozen=True)
class Piece:
    """A run of tokens: text (usually one token), or a medium with all its tokens."""

    text: str
    tokens: int
    labelled: bool
    modality: str | None = None


@dataclass(frozen=True)
class Shown:
    name: str
    pieces: list[Piece]
    media: dict[str, list[Any]]

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @property
    def labelled(self) -> int:
        return sum(piece.tokens for piece in self.pieces if piece.labelled)

    def summary(self) -> str:
        media = ", ".join(f"{len(items)} x {name}" for name, items in self.media.items() if items) or "no media"
        return visible(f"{self.name}: {counted(self.tokens)}, {self.labelled} of them learned; {media}")


def look(record: Mapping[str, Any], processor: Any, *, index: int = 0, media_root: str | Path | None = None) -> Shown:
    """A record as the collator prepares it; raises ValueError and MediaError, as the collator does."""
    try:
        (prompt,), _ = AnyModalityDataCollator(processor, media_root=media_root)._prepare([record], index, False)
    except MediaError as error:
        raise located(name_of(index, record), error) from error
    chat = read_chat(index, record, processor, media_root)
    return Shown(chat.where, _pieces(processor, prompt), chat.media)


def _pieces(processor: Any, prompt: Prompt) -> list[Piece]:
    names = {token_id: name for name, token_id in processor.prompt_tokenizer.placeholders.items()}
    ids, labelled, start = prompt.ids.tolist(), (prompt.labels != -100).tolist(), 0
    pieces: list[Piece] = []
    for place in np.flatnonzero(prompt.is_medium).tolist():
        pieces += _words(processor.tokenizer, ids, labelled, start, place)
        name = names[ids[place]]
        pieces.append(Piece(MODALITIES[name].token, int(prompt.repeats[place]), False, name))
        start = place + 1
    return pieces + _words(processor.tokenizer, ids, labelled, start, len(ids))


def _words(tokenizer: Any, ids: list[int], labelled: list[bool], start: int, stop: int) -> list[Piece]:
    """Pieces with as few tokens as possible: a character may need several."""

    def decode(some: list[int]) -> str:
        return tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    pieces: list[Piece] = []
    before = ids[:start][-1:]
    for end in range(start + 1, stop + 1):
        # Decoded together with the tokens before it, a token keeps its leading space.
        lead, text = decode(before), decode(before + ids[start:end])
        text = text.removeprefix(lead) if text.startswith(lead) else decode(ids[start:end])
        if text.endswith("�") and end < stop and end - start < 8 and labelled[start] == labelled[end]:
            continue
        pieces.append(Piece(text, end - start, labelled[start]))
        before, start = ids[start:end], end
    return pieces


def counted(tokens: int) -> str:
    return f"{tokens} token{'' if tokens == 1 else 's'}"


def as_text(shown: Shown, colour: bool = False) -> str:
    """For a terminal: learned tokens are green, or between ⟦ and ⟧ without colours."""
    opening, closing, medium = (GREEN, PLAIN, f"{BLUE}[{{}}: {{}}]{PLAIN}") if colour else ("⟦", "⟧", "[{}: {}]")
    text = ""
    for labelled, pieces in groupby(shown.pieces, attrgetter("labelled")):
        words = [
            visible(one.text) if one.modality is None else medium.format(one.modality, counted(one.tokens))
            for one in pieces
        ]
        text += "".join([opening, *words, closing] if labelled else words)
    return f"{shown.summary()}\n\n{text}"


def write_page(file: str | Path, samples: Sequence[Shown], processor: Any, title: str = "Samples") -> None:
    """Writes a page of samples: their tokens, coloured by whether they are learned, and their media."""
    body = "".join(_section(shown, processor) for shown in samples)
    key = (
        "<p class=key>Each box is a token: <span style='background:#c9f2d6'>learned</span> (its label is its own id), "
        "white: read only, <span style='background:#dbe8fd'>a medium</span> with its number of tokens.</p>"
    )
    write_html(file, title, key + body)


def _section(shown: Shown, processor: Any) -> str:
    spans, numbers = [], {}
    for piece in shown.pieces:
        if piece.modality is not None:
            number = numbers[piece.modality] = numbers.get(piece.modality, -1) + 1
            spans.append(f"<span class=medium>{piece.modality} {number} · {counted(piece.tokens)}</span>")
        else:
            kind = " class=learned" if piece.labelled else ""
            spans.append(f"<span{kind}>{html.escape(piece.text)}</span>")
    head = f"<h2>{html.escape(shown.summary())}</h2>{figures(shown.media, processor)}"
    return f"{head}<div class=tokens>{''.join(spans)}</div>"
