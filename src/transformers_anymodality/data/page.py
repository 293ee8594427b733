"""An HTML page of samples: their tokens, coloured by whether they are learned, and their media within the page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .figures import figures
from .showing import Shown, counted


STYLE = """
body{font:16px/1.6 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1f2430;background:#fbfbfd}
h2{font-size:1.1rem;margin-top:2.5rem}
.tokens{background:#fff;border:1px solid #e3e5ec;border-radius:.6rem;padding:1rem;margin-top:1rem}
.tokens{white-space:pre-wrap;overflow-wrap:anywhere;font-family:ui-monospace,monospace;font-size:.9rem}
.tokens span{border-radius:.2rem;box-shadow:inset 0 0 0 1px #eef0f5}
.tokens .learned{background:#c9f2d6;box-shadow:inset 0 0 0 1px #7fd69b}
.tokens .medium{background:#dbe8fd;color:#1d4fa0;padding:0 .3rem}
.media{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:0;background:#fff;border:1px solid #e3e5ec;border-radius:.6rem;padding:.7rem;max-width:100%}
figure img,figure video{max-width:24rem;max-height:18rem;display:block}
figure img.small{min-width:8rem;image-rendering:pixelated}
figure img.strip{max-width:100%;max-height:7rem;margin-top:.4rem}
figcaption{color:#5b6275;font-size:.85rem;margin-top:.3rem}
.wrong{color:#c02626} .key span{padding:0 .4rem;border-radius:.2rem}
"""


def write_page(file: str | Path, samples: Sequence[Shown], processor: Any, title: str = "Samples") -> None:
    """Writes a page that needs no other file."""
    body = "".join(_section(shown, processor) for shown in samples)
    key = (
        "<p class=key>Each box is a token: <span style='background:#c9f2d6'>learned</span> (its label is its own id), "
        "white: read only, <span style='background:#dbe8fd'>a medium</span> with its number of tokens.</p>"
    )
    write_html(file, title, key + body)


def write_html(file: str | Path, title: str, body: str, style: str = "") -> None:
    """Writes a page of HTML and its CSS, in the look that all of ours have."""
    path, title = Path(file), html.escape(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}{style}</style>"
        f"<h1>{title}</h1>{body}",
        encoding="utf-8",
    )


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
