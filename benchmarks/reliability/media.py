"""Files of media, cut off, flipped, overwritten and spliced: read, or refused with a MediaError; never anything else.

A file that is cut off is survived if it is refused, or if what is read is that of the whole file. `LOSSY` says of which
formats nothing tells that something is missing (docs/reliability.md).
"""

import io
import os
import random
import signal
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
from PIL import Image

from transformers_anymodality.modalities import MediaError, read_audio, read_image, read_map, read_signal, read_video

from .attack import Attack, Outcome, start


SECONDS = 120  # after which an attempt hangs, on a busy machine too
AXES = ["ax", "ay", "az", "gx", "gy", "gz"]
# Formats without a length or an end mark: a stream of packets, or rows of text.
LOSSY = {
    "aac",
    "mp3",
    "ts",
    "mpg",
    "flv",
    "csv",
    "csv with times",
    "mkv",
    "tga",
    "pcx",
    "m4a",
    "webm sound",
    "gif video",
}
READERS: dict[str, Callable[[Any], Any]] = {
    "image": lambda source: np.asarray(read_image(source)),
    "map": read_map,
    "sound": lambda source: read_audio(source, 16_000),
    "video": lambda source: np.asarray(read_video(source, 8)),
    "signal": lambda source: read_signal(source, AXES, 100),
}


def picture(shift: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[:44, :60]
    noise = np.random.default_rng(0).integers(0, 40, (44, 60, 3))
    return (np.stack([columns * 4 + 3 * shift, rows * 5, rows + columns], -1) + noise).clip(0, 255).astype(np.uint8)


def images() -> dict[str, bytes]:
    made, still = {}, Image.fromarray(picture())
    kinds = [
        ("PNG", {}),
        ("JPEG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
    ]
    kinds += [("TIFF", {"compression": how}) for how in (None, "tiff_lzw", "tiff_deflate", "jpeg")]
    kinds += [("JPEG", {"progressive": True}), ("TGA", {}), ("PCX", {}), ("JPEG2000", {}), ("QOI", {}), ("AVIF", {})]
    for kind, options in kinds:
        buffer = io.BytesIO()
        try:
            still.save(buffer, kind, **options)
        except (OSError, KeyError):  # not in this build of Pillow
            continue
        made[" ".join([kind.lower(), *map(str, options.values())])] = buffer.getvalue()
    return made


def maps() -> dict[str, bytes]:
    values, made = picture()[..., 0], {}
    for kind, array, options in (
        ("PNG", values.astype(np.uint16) * 200, {}),
        ("TIFF", values.astype(np.float32), {}),
        ("TIFF", values.astype(np.uint16) * 200, {"compression": "tiff_lzw"}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind, **options)
        made[f"{kind.lower()} {array.dtype}"] = buffer.getvalue()
    np.save(buffer := io.BytesIO(), values.astype(np.float32))
    return {**made, "npy map": buffer.getvalue()}


def sounds() -> dict[str, bytes]:
    times = np.arange(16_000) / 16_000
    tone = (0.4 * np.sin(2 * np.pi * (300 + 400 * times) * times)).astype(np.float32)
    made = {}
    kinds = [(kind, "PCM_16") for kind in ("WAV", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64")]
    for kind, subtype in [*kinds, ("WAV", "FLOAT"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]:
        soundfile.write(buffer := io.BytesIO(), tone, 16_000, format=kind, subtype=subtype)
        made[kind.lower() if subtype in ("PCM_16", "MPEG_LAYER_III") else f"{kind.lower()} {subtype.lower()}"] = (
            buffer.getvalue()
        )
    for name, kind, codec, rate in (
        ("m4a", "mp4", "aac", 16_000),
        ("aac", "adts", "aac", 16_000),
        ("webm sound", "webm", "libopus", 48_000),
    ):
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        made[name] = muxed(kind, codec, [frame], rate)
    return made


def muxed(kind: str, codec: str, frames: list[Any], rate: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        if isinstance(frames[0], av.AudioFrame):
            resampler = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=rate)
            frames = [one for frame in frames for one in resampler.resample(frame)]
        else:
            stream.width, stream.height, stream.pix_fmt = 60, 44, "yuv420p"
        for frame in [*frames, None]:
            file.mux(stream.encode(frame))
    return buffer.getvalue()


def videos() -> dict[str, bytes]:
    made = {}
    for name, kind, codec, rate in (
        *(("mp4", "mp4", "libx264", 10), ("mov", "mov", "mpeg4", 10), ("webm", "webm", "libvpx", 10)),
        *(("mkv", "matroska", "mpeg4", 10), ("avi", "avi", "mpeg4", 10), ("ts", "mpegts", "mpeg2video", 25)),
        *(("flv", "flv", "flv1", 10), ("mpg", "mpeg", "mpeg2video", 25), ("ogv", "ogg", "libtheora", 10)),
    ):
        frames = [av.VideoFrame.from_ndarray(picture(place), "rgb24") for place in range(24)]
        try:
            made[name] = muxed(kind, codec, frames, rate)
        except (av.FFmpegError, ValueError):  # not in this build of FFmpeg
            continue
    first, *others = [Image.fromarray(picture(place)) for place in range(12)]
    for name, kind in (("gif animation", "GIF"), ("webp animation", "WEBP"), ("apng", "PNG")):
        first.save(buffer := io.BytesIO(), kind, save_all=True, append_images=others, duration=100)
        made[name] = buffer.getvalue()
    return made


def signals() -> dict[str, bytes]:
    values, times = np.random.default_rng(0).standard_normal((200, 6)), np.arange(200) / 100
    rows = [",".join(f"{value:.6f}" for value in row) for row in values]
    timed = [f"{time:.2f},{row}" for time, row in zip(times, rows, strict=True)]
    made = {"csv": "\n".join([",".join(AXES), *rows]).encode() + b"\n"}
    made["csv with times"] = "\n".join([",".join(["time", *AXES]), *timed]).encode() + b"\n"
    np.save(buffer := io.BytesIO(), values.astype(np.float32))
    made["npy"] = buffer.getvalue()
    table = pyarrow.table({"time": times, **{name: values[:, place] for place, name in enumerate(AXES)}})
    for how in ("snappy", "zstd", "none"):
        pyarrow.parquet.write_table(table, buffer := io.BytesIO(), compression=how)
        made[f"parquet {how}"] = buffer.getvalue()
    return made


def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    size = len(data)
    first, length = rng.randrange(size), rng.randrange(1, max(2, size // 4))
    match rng.choice(("cut", "cut", "flip", "flip", "header", "lost", "zeros", "twice", "noise")):
        case "cut":
            return f"cut at {first}", data[:first]
        case "flip":
            return f"flipped at {first}", data[:first] + bytes([data[first] ^ (1 << rng.randrange(8))]) + data[
                first + 1 :
            ]
        case "header":
            place, width = rng.randrange(min(size, rng.choice((32, 96, 512)))), rng.choice((1, 2, 4, 8))
            word = rng.choice((b"\xff" * width, bytes(width), b"\x7f" + b"\xff" * (width - 1), rng.randbytes(width)))
            return f"{word.hex()} at {place}", (data[:place] + word + data[place + width :])[:size]
        case "lost":
            return f"{length} lost at {first}", data[:first] + data[first + length :]
        case "zeros":
            return f"{length} zeros at {first}", (data[:first] + bytes(length) + data[first + length :])[:size]
        case "twice":
            return f"{length} twice at {first}", data[: first + length] + data[first:]
    return f"noise at {first}", (data[:first] + rng.randbytes(length) + data[first + length :])[:size]


class Media(Attack):
    name = "Media: cut off, flipped, overwritten, spliced"
    full = 20_000

    def prepare(self, folder: Path) -> None:
        self.folder = folder
        made = {"image": images(), "map": maps(), "sound": sounds(), "video": videos(), "signal": signals()}
        self.files = [(kind, name, data) for kind, found in made.items() for name, data in found.items()]
        self.whole = {name: READERS[kind](data) for kind, name, data in self.files}

        self.reader: Reader | None = None

    def attempt(self, rng: random.Random) -> Outcome:
        kind, name, data = rng.choice(self.files)
        how, content = damaged(data, rng)
        source: bytes | Path = content
        if rng.random() < 0.3:
            source = self.folder / "medium"
            source.write_bytes(content)
        self.reader = self.reader or Reader(self.whole)
        try:
            found, said = self.reader.read(kind, name, source)
        except EOFError:
            found, said = "crashes", ""
        except TimeoutError:
            found, said = "hangs", ""
        if found in ("crashes", "hangs"):
            self.end()
        cut = how.startswith("cut") and found == "read, other values" and name not in LOSSY
        return Outcome(found in ("refused", "read", "read, other values") and not cut, found, f"{name}, {how}: {said}")

    def end(self) -> None:
        if self.reader is not None:
            self.reader.end()
        self.reader = None


class Reader:
    """A process that reads one medium after another. A new one is needed after it has crashed or did not answer."""

    def __init__(self, whole: dict[str, np.ndarray]):
        self.whole = whole
        self.pipe, self.theirs = Pipe()
        self.process = start(self.run)
        self.theirs.close()  # so that its end is seen here

    def run(self) -> None:
        self.pipe.close()
        while True:
            self.theirs.send(self.found(*self.theirs.recv()))

    def read(self, kind: str, name: str, source: bytes | Path) -> tuple[str, str]:
        """How it was read, and the message. Raises EOFError if the process crashes, TimeoutError if it hangs."""
        self.pipe.send((kind, name, source))
        if not self.pipe.poll(SECONDS):
            raise TimeoutError
        return self.pipe.recv()

    def found(self, kind: str, name: str, source: bytes | Path) -> tuple[str, str]:
        try:
            found, whole = READERS[kind](source), self.whole[name]
            if not np.isfinite(np.asarray(found, dtype=np.float64)).all():
                return "not finite", ""
            same = found.shape == whole.shape and np.array_equal(found, whole)
            return ("read", "") if same else ("read, other values", f"{found.shape}, not {whole.shape}")
        except MediaError as error:
            return "refused", str(error)[:200]
        except BaseException as error:
            return f"untyped {type(error).__name__}", str(error)[:200]

    def end(self) -> None:
        self.pipe.close()
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


ATTACKS: list[Callable[[], Attack]] = [Media]
