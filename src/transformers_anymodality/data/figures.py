"""Self-contained pages with media as the model reads them."""

import base64
import hashlib
import html
import io
import wave
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..modalities import MODALITIES, MediaError, open_source
from ..modalities._source import opened
from ..utils.imports import require


COLOURS = ("#3b7dd8", "#d8693b", "#2c9a5b", "#a144c0", "#c0a12c", "#4a4f5c")
_PLAYED = {b"ftyp": "video/mp4", b"\x1aE\xdf\xa3": "video/webm"}
_PLAYED_CODECS = ("h264", "vp8", "vp9", "av1")
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
_MAX_BYTES = 32 * 1024**2  # of a video that the page holds unchanged
_MAX_SIDE = 768
_MAX_CURVES = 16
_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def write_html(file: str | Path, title: str, body: str, style: str = "", script: str = "") -> None:
    """Writes a page of HTML with the common CSS. It loads nothing, and runs only `script`."""
    path, title = Path(file), html.escape(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"{_POLICY}; script-src 'sha256-{allowed}'"
    path.write_text(
        f'<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=Content-Security-Policy content="{policy}">'
        f"<title>{title}</title><style>{_STYLE}{style}</style><h1>{title}</h1>{body}"
        + (f"<script>{script}</script>" if script else ""),
        encoding="utf-8",
        errors="backslashreplace",
    )


def figures(media: Mapping[str, Sequence[Any]], processor: Any) -> str:
    """HTML of media by modality, each with its modality, number and file."""
    found = []
    for name, sources in media.items():
        for i, source in enumerate(sources):
            is_path = isinstance(source, (str, Path)) and not str(source).startswith("data:")
            file = f" · {source}" if is_path and MODALITIES[name].medium != "text" else ""
            found.append(figure(name, source, processor, f"{name} {i}{file}"))
    return f"<div class=media>{''.join(found)}</div>"


def figure(modality: str, source: Any, processor: Any, caption: str) -> str:
    """HTML of one medium, as the modality's spec reads it."""
    return f"<figure>{_drawn(modality, source, processor)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _drawn(modality: str, source: Any, processor: Any) -> str:
    spec, own = MODALITIES[modality], processor.sub_processor(modality)
    try:
        item = spec.read(source, own, processor.modalities[modality].options)
    except (MediaError, OSError) as error:
        return f"<p class=wrong>{html.escape(str(error))}</p>"
    if isinstance(item, str):
        return f"<pre>{html.escape(item)}</pre>"
    if spec.medium == "audio":
        samples, rate = item if isinstance(item, tuple) else (item, own.sampling_rate)
        buffer = io.BytesIO()
        channels = np.atleast_2d(samples)
        with wave.open(buffer, "wb") as file:
            file.setparams((len(channels), 2, round(rate), 0, "NONE", ""))
            file.writeframes(np.rint(channels.clip(-1, 1) * 32767).astype("<i2").T.tobytes())
        return f"<audio controls src='{uri('audio/wav', buffer.getvalue())}'></audio>"
    if hasattr(item, "convert"):
        return picture(item)
    values = np.asarray(item)
    if values.ndim == 4:
        return _video(source, values)
    if spec.medium == "pixels":
        return picture(in_colours(values if values.ndim == 2 else values[..., 0]))
    if values.ndim == 2 and values.shape[1] <= _MAX_CURVES:
        return curves(values, list(getattr(own, "channels", None) or map(str, range(values.shape[1]))))
    return picture(in_colours(np.atleast_2d(values)))


def uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(image: Any, kind: str = "") -> str:
    image = image.convert("RGB")
    if max(image.size) > _MAX_SIDE and not kind:
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    buffer = io.BytesIO()
    encoding = "png" if max(image.size) <= 256 else "jpeg"
    image.save(buffer, encoding)
    kind = kind or ("small" if max(image.size) < 128 else "")
    return f"<img alt='' class='{kind}' src='{uri(f'image/{encoding}', buffer.getvalue())}'>"


def in_colours(values: np.ndarray) -> Any:
    """A map in colours from dark blue (lowest) over red to yellow (highest)."""
    values = values.astype(np.float64)
    values = (values - values.min()) / (np.ptp(values) or 1.0)
    stops = np.array([[20, 24, 82], [120, 28, 109], [229, 92, 48], [252, 255, 164]], dtype=float)
    colour = np.stack([np.interp(values, np.linspace(0, 1, 4), stops[:, i]) for i in range(3)], axis=-1)
    return require("PIL.Image").fromarray(colour.astype(np.uint8))


def _video(source: Any, frames: np.ndarray) -> str:
    """A player, or an animation of the frames that the model sees; then these frames side by side."""
    module = require("PIL.Image")
    images = [module.fromarray(frame) for frame in frames]
    for image in images:
        image.thumbnail((320, 320))
    strip = module.fromarray(np.hstack([np.asarray(image) for image in images]))
    if (encoded := _playable(source)) is not None:
        player = f"<video controls src='{uri(*encoded)}'></video>"
    else:
        player = animation(images)
    return player + picture(strip, "strip")


def animation(images: Sequence[Any]) -> str:
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=300, loop=0)
    return f"<img alt='' src='{uri('image/gif', buffer.getvalue())}'>"


def _playable(source: Any) -> tuple[str, bytes] | None:
    """MIME type and bytes of a video that browsers play; else None."""
    try:
        with opened(open_source(source)) as file:
            start, length = file.read(12), file.seek(0, 2)
            kind = next((kind for magic, kind in _PLAYED.items() if magic in start), None)
            if kind is None or length > _MAX_BYTES:
                return None
            file.seek(0)
            content = file.read()
    except MediaError:
        return None  # frames or an array
    with (
        suppress(ImportError),
        require("av").open(io.BytesIO(content)) as container,
    ):  # without PyAV, the browser finds out
        if container.streams.video[0].codec.canonical_name not in _PLAYED_CODECS:
            return None
    return kind, content


def curves(values: np.ndarray, names: list[str], width: int = 420, height: int = 26) -> str:
    """Each channel of `(samples, channels)` as a separate line, with its name and range."""
    lines = []
    times = np.linspace(90, width - 4, len(values))
    for i, (column, name) in enumerate(zip(values.T, names, strict=False)):
        low, high = float(column.min()), float(column.max())
        scaled = (i + 1) * height - 4 - (column - low) / ((high - low) or 1.0) * (height - 8)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(times, scaled, strict=True))
        colour = COLOURS[i % len(COLOURS)]
        lines.append(
            f"<text x=2 y={(i + 1) * height - 9} font-size=11 fill='{colour}'>{html.escape(name)}</text>"
            f"<polyline fill=none stroke='{colour}' points='{points}'><title>{html.escape(name)}: {low:.4g} to {high:.4g}"
            "</title></polyline>"
        )
    total = height * len(lines)
    return f"<svg width={width} height={total} viewBox='0 0 {width} {total}'>{''.join(lines)}</svg>"
