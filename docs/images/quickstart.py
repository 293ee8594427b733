"""Draws `quickstart.png` from what `make quickstart` left: one test item of each modality, and what the model answered.

python docs/images/quickstart.py outputs/quickstart
"""

import csv
import json
import sys
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image, ImageDraw, ImageFont


SIDE, GAP, HEAD, FOOT = 128, 14, 26, 26
COLOURS = ("#3b7dd8", "#d8743b", "#3ba35d")


def curves(rows: np.ndarray) -> Image.Image:
    """Each column as a line over the whole width."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(picture)
    low, high = rows.min(), rows.max()
    for column, colour in zip(rows.T, COLOURS, strict=False):
        heights = SIDE - 8 - (column - low) / (high - low) * (SIDE - 16)
        draw.line(list(zip(np.linspace(4, SIDE - 4, len(column)), heights, strict=True)), fill=colour)
    return picture


def tile(kind: str, file: Path) -> Image.Image:
    if kind == "audio":
        return curves(soundfile.read(file)[0][::8, None])
    if kind == "imu":
        with file.open() as lines:
            return curves(np.array(list(csv.reader(lines))[1:], dtype=float)[:, 1:4])
    if kind == "video":
        with av.open(str(file)) as container:
            frames = [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        picture = frames[-1]
    else:
        picture = Image.open(file)
    values = np.asarray(picture).astype(float)
    values = (values - values.min()) / max(np.ptp(values), 1) * 255  # depth and heat have ranges of their own
    return Image.fromarray(values.astype(np.uint8)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)


def main(folder: Path) -> None:
    samples, answers = (json.loads((folder / f"{name}.json").read_text()) for name in ("questions", "answers"))
    shown: dict[str, tuple[Image.Image, str]] = {}
    for sample, answer in zip(samples, answers, strict=True):
        part = sample["messages"][0]["content"][0]
        shown.setdefault(part["type"], (tile(part["type"], Path(part["path"])), answer))
    sheet = Image.new("RGB", (GAP + len(shown) * (SIDE + GAP), HEAD + SIDE + FOOT), "#fafafa")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for place, (kind, (picture, answer)) in enumerate(shown.items()):
        left = GAP + place * (SIDE + GAP)
        sheet.paste(picture, (left, HEAD))
        draw.text((left + SIDE / 2, HEAD / 2), kind, "#555", font, anchor="mm")
        draw.text((left + SIDE / 2, HEAD + SIDE + FOOT / 2), f'"{answer}"', "#16803c", font, anchor="mm")
    sheet.save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
