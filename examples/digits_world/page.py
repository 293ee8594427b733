"""Writes the quickstart's results as one HTML page: questions, answers, loss curves."""

import csv
import html
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from transformers_anymodality.data.figures import animation, curves, in_colours, picture, uri, write_html


STYLE = """
table{border-collapse:collapse} td,th{padding:.3rem .9rem;text-align:right;border-bottom:1px solid #e3e5ec}
td:first-child,th:first-child{text-align:left} h2 small,.q{color:#5b6275;font-size:.9rem}
.bar{background:#e3e5ec;width:14rem;height:.8rem;border-radius:.4rem} .bar i{display:block;height:100%;border-radius:.4rem;background:#3b7dd8}
.cards{display:flex;flex-wrap:wrap;gap:1rem} .card{background:#fff;border:1px solid #e3e5ec;border-radius:.6rem;padding:.8rem;width:15rem}
.card img{width:6.2rem;height:6.2rem;image-rendering:pixelated;border-radius:.3rem;margin-right:.3rem} .card svg{width:14rem;height:auto}
.card audio{width:14rem;height:2.2rem} .right{color:#16803c} pre{overflow:auto} figure{display:inline-block;margin:0 2rem 0 0}
"""


def write(file: Path, results: dict, samples: list, answers: list, logs: dict, table: str, per_kind: int = 8) -> None:
    """`results` as in results.json; `samples` and `answers` side by side; `logs`: stage -> Trainer's log entries."""
    shown: dict = defaultdict(lambda: ([], []))  # kind -> wrong, right
    for sample, answer in zip(samples, answers, strict=True):
        kinds = [part["type"] for part in sample["messages"][0]["content"] if part["type"] != "text"]
        kind = kinds[0] if len(kinds) == 1 else "sum of two digits"
        shown[kind][answer == sample["messages"][-1]["content"]].append((sample, answer))
    sections = ""
    for kind, (wrong, right) in shown.items():
        some = [*right[: per_kind - min(len(wrong), 2)], *wrong[:2]]
        sections += f"<h2>{kind} <small>{len(right)} right, {len(wrong)} wrong; {len(some)} shown</small></h2>"
        sections += f"<div class=cards>{''.join(card(*one) for one in some)}</div>"
    losses = "".join(curve(stage, log) for stage, log in logs.items())
    text = (
        "<p>A small language model was given six modalities. It is asked about digits of "
        f"writers and speakers that it has not met. The whole run took {results['seconds']:.0f} seconds.</p>"
        f"{_scores(results)}<h2>Loss</h2>{losses}<h2>Parts, while aligning</h2><pre>{html.escape(table)}</pre>{sections}"
    )
    write_html(file, "Six modalities of a digit", text, STYLE)


def _scores(results: dict) -> str:
    rows = [*results["modalities"].items(), ("sum of two digits", {**results["sums"], "tokens": ""})]
    lines = "".join(
        f"<tr><td>{name}<td>{row['accuracy']:.1%}<td><div class=bar><i style='width:{row['accuracy']:.1%}'></i></div>"
        f"<td>{row['chance']:.0%}<td>{row['tokens']}"
        for name, row in rows
    )
    return f"<table><tr><th>modality<th>test accuracy<th><th>chance<th>tokens per item</tr>{lines}</table>"


def card(sample: dict, answer: str) -> str:
    """A chat, and what was answered instead of its last turn."""
    *turns, last = sample["messages"]
    wanted = last["content"]
    mark = "right" if answer == wanted else "wrong"
    said = f"✓ {answer}" if mark == "right" else f"✗ {answer} (it is {wanted})"
    return f"<div class=card>{''.join(map(_turn, turns))}<b class={mark}>{html.escape(said)}</b></div>"


def _turn(message: dict) -> str:
    """Media as they are seen or heard, words in grey; an earlier answer in bold."""
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    shown = "".join(_medium(part["type"], Path(part["path"])) for part in content if part["type"] != "text")
    words = html.escape(" ".join(part["text"].strip() for part in content if part["type"] == "text"))
    return f"{shown}<div class=q>{words if message['role'] == 'user' else f'<b>{words}</b>'}</div>"


def _medium(kind: str, file: Path) -> str:
    if kind == "imu":
        with file.open() as lines:
            names, *rows = csv.reader(lines)
        return curves(np.array(rows, dtype=float)[:, 1:], names[1:])
    if kind in ("depth", "thermal"):
        return picture(in_colours(np.asarray(Image.open(file))))
    if kind == "audio":
        return f"<audio controls src='{uri('audio/wav', file.read_bytes())}'></audio>"
    return animation(_frames(file)) if kind == "video" else picture(Image.open(file))


def _frames(file: Path) -> list[Image.Image]:
    import av

    with av.open(str(file)) as container:
        return [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def curve(stage: str, log: list[dict]) -> str:
    """The training loss over steps, with axes."""
    width, height, left, top = 360, 180, 44, 10
    losses = [entry["loss"] for entry in log]
    steps = [entry.get("step", i) for i, entry in enumerate(log)]
    most, last = max(losses) or 1.0, max(steps) or 1
    x, y = (lambda step: left + step / last * (width - left - 8)), (lambda loss: height - 24 - loss / most * 146)
    points = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in zip(steps, losses, strict=True))
    lines = "".join(
        f"<line x1={left} x2={width - 8} y1={y(loss):.1f} y2={y(loss):.1f} stroke='#e3e5ec'/>"
        f"<text x={left - 6} y={y(loss) + 4:.1f} text-anchor=end>{loss:.2g}</text>"
        for loss in (0, most / 2, most)
    )
    lines += "".join(
        f"<text x={x(step):.1f} y={height - 8} text-anchor={'end' if step else 'start'}>{step:.0f}</text>"
        for step in (0, last // 2, last)
    )
    caption = f"{stage}: loss by step, {losses[0]:.2f} → {losses[-1]:.3f}"
    return (
        f"<figure><svg width={width} height={height + top} font-size=11 fill='#5b6275'>{lines}"
        f"<polyline fill=none stroke='#3b7dd8' stroke-width=1.5 points='{points}'/></svg>"
        f"<figcaption>{caption}</figcaption></figure>"
    )
