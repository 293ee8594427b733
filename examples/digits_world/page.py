"""Writes the quickstart's results as one HTML page: what was shown, what was answered, how training went."""

import base64
import csv
import html
import io
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1f2430;background:#fbfbfd}
h1{font-size:1.7rem} h2{margin-top:2.5rem;font-size:1.25rem} table{border-collapse:collapse}
td,th{padding:.3rem .9rem;text-align:right;border-bottom:1px solid #e3e5ec} td:first-child,th:first-child{text-align:left}
.bar{background:#e3e5ec;width:14rem;height:.8rem;border-radius:.4rem} .bar i{display:block;height:100%;border-radius:.4rem;background:#3b7dd8}
.cards{display:flex;flex-wrap:wrap;gap:1rem} .card{background:#fff;border:1px solid #e3e5ec;border-radius:.6rem;padding:.8rem;width:15rem}
.card img,.card video{width:6.2rem;height:6.2rem;image-rendering:pixelated;border-radius:.3rem;margin-right:.3rem}
.card audio{width:14rem;height:2.2rem} .card svg{margin-right:.3rem} .q{color:#5b6275;font-size:.9rem} .right{color:#16803c} .wrong{color:#c02626}
pre{background:#fff;border:1px solid #e3e5ec;border-radius:.6rem;padding:1rem;overflow:auto} figure{display:inline-block;margin:0 2rem 0 0}
"""
COLOURS = ["#3b7dd8", "#d8693b", "#2c9a5b", "#a144c0", "#c0a12c", "#4a4f5c"]


def write(file: Path, results: dict, samples: list, answers: list, logs: dict, table: str, per_kind: int = 6) -> None:
    """`results` as in results.json; `samples` and `answers` side by side; `logs`: stage -> Trainer's log entries."""
    shown = defaultdict(list)
    for sample, answer in zip(samples, answers, strict=True):
        kinds = [part["type"] for part in sample["messages"][0]["content"] if part["type"] != "text"]
        kind = kinds[0] if len(kinds) == 1 else "two senses, added"
        if len(shown[kind]) < per_kind * (1 if len(kinds) == 1 else 2):
            shown[kind].append(_card(sample, answer))
    sections = "".join(f"<h2>{kind}</h2><div class=cards>{''.join(cards)}</div>" for kind, cards in shown.items())
    curves = "".join(f"<figure>{_curve(log)}<figcaption>{stage}</figcaption></figure>" for stage, log in logs.items())
    text = (
        "<h1>Six senses of a digit</h1><p>A small language model was given six senses. It is asked about digits of "
        f"writers and speakers that it has not met. The whole run took {results['seconds']:.0f} seconds.</p>"
        f"{_scores(results)}<h2>Loss</h2>{curves}<h2>Parts, while aligning</h2><pre>{html.escape(table)}</pre>{sections}"
    )
    _save(file, "Six senses of a digit", text)


def write_claims(file: Path, replicas: dict, per_claim: int = 8) -> None:
    """`replicas`: system -> what its script returned, its claims with chats and answers, its logs, its seconds."""
    text = "<h1>Five papers at small scale</h1>"
    for system, replica in replicas.items():
        rows = "".join(
            f"<tr><td>{html.escape(claim.name)}<td>{claim.measured:.1%}<td><div class=bar><i style='width:"
            f"{min(1, claim.measured):.1%}'></i></div><td>{claim.control:.1%}<td>{claim.chance:.1%}"
            f"<td>{'lower' if claim.better == 'lower' else 'higher'}<td class={'right' if claim.holds else 'wrong'}>"
            f"{'✓' if claim.holds else '✗'}<td style='text-align:left'>{html.escape(claim.without)}"
            for claim in replica.claims
        )
        head = (
            "<tr><th>claim<th>measured<th><th>control<th>chance<th>better<th>holds<th style='text-align:left'>control"
        )
        curves = "".join(
            f"<figure>{_curve(log)}<figcaption>{stage}</figcaption></figure>"
            for stage, log in replica.logs.items()
            if log
        )
        cards = "".join(
            f"<h3>{html.escape(claim.name)}</h3><div class=cards>"
            f"{''.join(_card(*example) for example in claim.examples[:per_claim])}</div>"
            for claim in replica.claims
            if claim.examples
        )
        text += (
            f"<h2>{system} <small class=q>{replica.seconds:.0f} s</small></h2><table>{head}{rows}</table>"
            f"<h3>Loss</h3>{curves}{cards}"
        )
    _save(file, "Five papers at small scale", text)


def _save(file: Path, title: str, body: str) -> None:
    file.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>{body}",
        encoding="utf-8",
    )


def _scores(results: dict) -> str:
    rows = [*results["senses"].items(), ("two senses, added", {**results["sums"], "tokens": ""})]
    lines = "".join(
        f"<tr><td>{name}<td>{row['accuracy']:.1%}<td><div class=bar><i style='width:{row['accuracy']:.1%}'></i></div>"
        f"<td>{row['chance']:.0%}<td>{row['tokens']}"
        for name, row in rows
    )
    return f"<table><tr><th>sense<th>test accuracy<th><th>chance<th>tokens per item</tr>{lines}</table>"


def _card(sample: dict, answer: str) -> str:
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
        return _signal(file)
    if kind in ("depth", "thermal"):
        return f"<img alt='{kind}' src='{_data('image/png', _in_colour(file))}'>"
    data = _data({"image": "image/png", "video": "image/gif", "audio": "audio/wav"}[kind], _bytes(kind, file))
    return f"<audio controls src='{data}'></audio>" if kind == "audio" else f"<img alt='{kind}' src='{data}'>"


def _bytes(kind: str, file: Path) -> bytes:
    """Files as they are, but videos as GIF, which every browser plays."""
    if kind != "video":
        return file.read_bytes()
    import av

    with av.open(str(file)) as container:
        frames = [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=150, loop=0)
    return buffer.getvalue()


def _data(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _in_colour(file: Path) -> bytes:
    """A measured map from dark blue (least) over red to yellow (most)."""
    values = np.asarray(Image.open(file), dtype=float)
    values = (values - values.min()) / max(np.ptp(values), 1)
    stops = np.array([[20, 24, 82], [120, 28, 109], [229, 92, 48], [252, 255, 164]], dtype=float)
    colour = np.stack([np.interp(values, np.linspace(0, 1, 4), stops[:, i]) for i in range(3)], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(colour.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _signal(file: Path) -> str:
    with file.open() as lines:
        rows = list(csv.reader(lines))
    values = np.array(rows[1:], dtype=float)[:, 1:]
    values = (values - values.mean(0)) / (values.std(0) + 1e-9)
    return _lines([column * -6 + 9 + 16 * i for i, column in enumerate(values.T)], 200, 100, rows[0][1:])


def _curve(log: list[dict]) -> str:
    losses = np.array([entry["loss"] for entry in log])
    top = losses.max() or 1.0
    text = f"<text x=4 y=14 font-size=12 fill='#5b6275'>loss {losses[0]:.2f} → {losses[-1]:.3f}</text>"
    return _lines([150 - 140 * losses / top], 320, 155, ["loss"], text)


def _lines(curves: list[np.ndarray], width: int, height: int, names: list[str], extra: str = "") -> str:
    paths = ""
    for i, curve in enumerate(curves):
        points = " ".join(
            f"{x:.1f},{y:.1f}" for x, y in zip(np.linspace(2, width - 2, len(curve)), curve, strict=True)
        )
        paths += f"<polyline fill=none stroke='{COLOURS[i]}' points='{points}'><title>{names[i]}</title></polyline>"
    return f"<svg width={width} height={height} viewBox='0 0 {width} {height}'>{paths}{extra}</svg>"
