"""Bad media and counts are refused by a clear error, and leave the model, the processor and what was given as they were."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, ConvNextConfig, Wav2Vec2FeatureExtractor

from modeling_tests import chat_templates, tiny
from modeling_tests.checks import refused
from transformers_anymodality import AnyModalityProcessor, MediaError
from transformers_anymodality.modalities import Limits


Image = pytest.importorskip("PIL.Image")
soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")


def text_of(name: str, count: int = 1) -> str:
    return " ".join([f"<{name}>"] * count)


def give(processor: AnyModalityProcessor, name: str, medium: Any, **kwargs) -> Any:
    """By the argument, one medium in a list."""
    return processor(text=text_of(name), **{tiny.ARGUMENTS[name]: [medium]}, **kwargs)


# --- counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.ARGUMENTS)
@pytest.mark.parametrize("placeholders, media", [(1, 2), (2, 1), (1, 0), (0, 1)])
def test_counts_of_placeholders_and_media(processor, name, placeholders, media):
    given = [tiny.medium(name, seed) for seed in range(media)]
    text = text_of(name, placeholders) or "yes"
    expected = rf"{placeholders} <{name}> placeholders, but {media} media of '{name}'"
    with refused(processor, expected, given):
        processor(text=text, **{tiny.ARGUMENTS[name]: given})
    with refused(processor, f"prompt 1 has {expected}", given):
        processor(text=["yes", text], **{tiny.ARGUMENTS[name]: [[], given]})


@pytest.mark.parametrize("model_inputs", ["fewer", "more", "none"])
def test_the_model_counts_too(shared, model_inputs):
    model, processor = shared
    inputs = tiny.inputs(processor, tiny.chat("image", "image", "what"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixels = inputs.pop("pixel_values")
    if model_inputs != "none":
        inputs["pixel_values"] = pixels[:1] if model_inputs == "fewer" else pixels.repeat(2, 1, 1, 1)
    message = (
        "no image was given" if model_inputs == "none" else f"tokens: 6, features: {3 * len(inputs['pixel_values'])}"
    )
    with pytest.raises(ValueError, match=message):
        model(**inputs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("argument", ["audio", "videos", "depth"])
def test_media_of_a_modality_that_the_model_lacks(argument):
    processor = chat_templates.processor("chatml")
    with refused(processor, f"{argument} given, but this model has only image, imu"):
        processor(text="yes", **{argument: [np.ones(100)]})
    name = argument.rstrip("s")
    for render in (dict(tokenize=False), dict(tokenize=True, return_dict=True)):
        with refused(
            processor,
            f"modality {name}|part of type '{name}', but this model takes \"text\" and image, imu",
            kind=Exception,
        ):
            processor.apply_chat_template(tiny.chat(name, "what"), **render)


# --- media that cannot be read -------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A header that promises an image, and next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def encoded(name: str) -> bytes:
    """A sound file of a modality."""
    buffer = io.BytesIO()
    if name == "image":
        Image.fromarray(tiny.medium("image")).save(buffer, "PNG")
    elif name in ("depth", "thermal"):
        Image.fromarray((tiny.medium(name) * 1000).astype(np.uint16)).save(buffer, "PNG")
    elif name == "audio":
        soundfile.write(buffer, tiny.medium("audio") / 8, 16000, format="WAV")
    elif name == "imu":
        rows = "\n".join(",".join(f"{value:.6f}" for value in row) for row in tiny.medium("imu"))
        buffer.write(b"ax,ay,az,gx,gy,gz\n" + rows.encode())
    else:
        with av.open(buffer, "w", format="mp4") as file:
            stream = file.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for frame in tiny.medium("video", 0).repeat(2, axis=0)[:, :48, :48]:
                frame = np.pad(frame, ((0, 48 - frame.shape[0]), (0, 64 - frame.shape[1]), (0, 0)))
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            file.mux(stream.encode())
    return buffer.getvalue()


def damaged(name: str) -> dict[str, bytes]:
    data = encoded(name)
    return {
        "empty": b"",
        "noise": np.random.default_rng(0).integers(0, 255, 4000, dtype=np.uint8).tobytes(),
        "another kind": encoded("audio" if name in ("image", "imu", "depth", "thermal") else "imu"),
        "truncated": data[: len(data) * 2 // 3 + 1] if name != "imu" else data[:-25],
        "header alone": data[:20],
    }


@pytest.mark.parametrize("damage", ["empty", "noise", "another kind", "truncated", "header alone"])
@pytest.mark.parametrize("name", tiny.ARGUMENTS)
def test_damaged_files(processor, name, damage, tmp_path):
    give(processor, name, encoded(name))
    data = damaged(name)[damage]
    (tmp_path / "medium").write_bytes(data)
    with refused(processor, f"^{name} 0: .*(empty|bytes object)", data, kind=MediaError):
        give(processor, name, data)
    chat = [
        {
            "role": "user",
            "content": [{"type": name, name: encoded(name)}, {"type": name, "path": str(tmp_path / "medium")}],
        }
    ]
    with refused(processor, f"^{name} 1: .*medium", chat, kind=MediaError):
        tiny.inputs(processor, chat)


@pytest.mark.parametrize("name", tiny.ARGUMENTS)
@pytest.mark.parametrize(
    "source, message",
    [
        ("/nowhere/at/all", "'/nowhere/at/all' does not exist"),
        (".", "is a directory"),
        ("https://example.com/a.png?token=secret", "URLs are off by default. Pass allow_urls=True"),
        ("http://127.0.0.1/a.png", "URLs are off by default"),
        ("file:///etc/passwd", "file:// URLs are refused"),
        ("ftp://example.com/a.png", "only http and https"),
        ("data:image/png;base64,####", "not valid base64"),
        ({"base64": "####"}, "not valid base64"),
        ({"path": None, "bytes": None}, "one of the two given"),
        (object(), "object"),
    ],
)
def test_sources_that_lead_nowhere(processor, name, source, message):
    with refused(processor, f"^{name} 0: .*({message})", kind=MediaError) as caught:
        give(processor, name, source)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", tiny.ARGUMENTS)
def test_none_is_no_medium(processor, name):
    with refused(processor, f"1 <{name}> placeholders, but 0 media"):
        give(processor, name, None)
    with refused(processor, f"^{name} 1: .*NoneType", kind=MediaError):
        processor(text=text_of(name, 2), **{tiny.ARGUMENTS[name]: [tiny.medium(name), None]})
    with refused(processor, f"^{name} 0: .*NoneType", kind=MediaError):
        processor(text=text_of(name), **{tiny.ARGUMENTS[name]: [[None]]})


@pytest.mark.parametrize(
    "part, message",
    [
        ({"url": "https://example.com/a.png"}, "URLs are off by default"),
        ({"image": "https://example.com/a.png"}, "URLs are off by default"),
        ({"url": "file:///etc/passwd"}, "file:// URLs are refused"),
        ({"path": "file:///etc/passwd"}, "does not exist"),
        ({"path": "/nowhere/at/all.png"}, "'/nowhere/at/all.png' does not exist"),
    ],
)
def test_sources_in_chats_that_lead_nowhere(processor, part, message):
    chat = [{"role": "user", "content": [{"type": "image", **part}]}]
    with refused(processor, f"^image 0: .*{message}", chat, kind=MediaError):
        tiny.inputs(processor, chat)
    chat[0]["content"][0] = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    with refused(processor, "^image 0: .*URLs are off by default", chat, kind=MediaError):
        tiny.inputs(processor, chat)


def test_urls_stay_refused_where_they_are_private_even_when_allowed(processor):
    for kwargs in ({"processor_kwargs": {"allow_urls": True}},):
        chat = [{"role": "user", "content": [{"type": "image", "url": "http://127.0.0.1:9/a.png"}]}]
        with refused(processor, "image 0: .*not a public address", chat, kind=MediaError):
            tiny.inputs(processor, chat, **kwargs)


def test_enormous_media(processor):
    for name, medium, limits, message in (
        (
            "image",
            png(100_000, 100_000),
            {},
            "100000 x 100000 pixels, more than the limit|10000000000 pixels. exceeds limit",
        ),
        (
            "depth",
            png(100_000, 100_000),
            {},
            "100000 x 100000 pixels, more than the limit|10000000000 pixels. exceeds limit",
        ),
        ("image", encoded("image"), {"max_pixels": 100}, "more than the limit of 100"),
        ("image", encoded("image"), {"max_bytes": 100}, "more than the limit of 100"),
        ("audio", encoded("audio"), {"max_seconds": 0.1}, "more than the limit of 0.1 s"),
        ("audio", np.zeros(16001, np.float32), {}, "1.0 s of audio, but WhisperFeatureExtractor reads at most 1.0 s"),
        ("imu", encoded("imu"), {"max_seconds": 0.1}, "limit of 0.1"),
        ("imu", np.zeros((65, 6)), {}, r"65 samples \(2.03 s\), but the tower reads 64"),
        ("video", encoded("video"), {"max_frames": 2}, "limit of 2"),
        ("video", encoded("video"), {"max_pixels": 100}, "more than the limit of 100"),
    ):
        kwargs = {"limits": Limits(**limits)} if limits else {}
        with refused(processor, f"^{name} 0: .*({message})", kind=MediaError):
            give(processor, name, medium, **kwargs)
        chat = [{"role": "user", "content": [{"type": name, name: medium}]}]
        with refused(processor, f"^{name} 0: .*({message})", kind=MediaError):
            tiny.inputs(processor, chat, processor_kwargs=kwargs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", tiny.ARGUMENTS)
def test_values_that_are_not_finite(processor, name, value):
    medium = tiny.medium(name).astype(np.float32)
    if name in ("image", "video"):
        medium /= 255
    give(processor, name, medium)
    medium[..., 1] = value
    with refused(processor, f"^{name} 0: .*({'nan' if np.isnan(value) else 'inf'})", medium, kind=MediaError):
        give(processor, name, medium)


@pytest.mark.parametrize(
    "name, medium, message",
    [
        ("image", np.zeros((8, 8, 5), np.uint8), r"array of shape \(8, 8, 5\)"),
        ("image", np.zeros((8, 8, 3), np.int64), "int64"),
        ("image", np.zeros((2, 8, 8, 3), np.uint8), "one image without a batch axis"),
        ("image", np.full((8, 8, 3), 200.0, np.float32), r"expected \[0, 1\]"),
        ("depth", np.zeros((8, 8, 3), np.float32), "one value per pixel"),
        ("depth", np.zeros((0, 8), np.float32), "empty"),
        ("audio", np.zeros((9, 400), np.float32), "9 channels"),
        ("audio", np.zeros(0, np.float32), "empty"),
        ("audio", np.zeros(400, np.uint8), "uint8"),
        ("audio", (np.zeros(400, np.float32), 0), "sampling rate"),
        ("audio", (np.zeros(400, np.float32), -16000), "sampling rate"),
        ("audio", {"array": np.zeros(400, np.float32)}, "sampling_rate"),
        ("imu", np.zeros((10, 5), np.float32), r"expected \(T, 6\) or \(6, T\) for the channels ax, ay, az"),
        ("imu", np.zeros((6, 6), np.float32), "either axis could be the 6 channels"),
        ("imu", np.zeros((10, 7), np.float32), "time column apart"),
        ("imu", [[0.0] * 6, [0.0] * 5], "cannot be converted to an array"),
        ("imu", np.zeros((0, 6), np.float32), "empty"),
        ("imu", {"values": np.zeros((10, 6)), "sampling_rate": -5}, "positive number"),
        ("imu", {"values": np.zeros((10, 6)), "sampling_rate": float("nan")}, "positive number"),
        ("imu", {"values": np.zeros((10, 6)), "time": np.zeros(10)}, "is not later than"),
        ("imu", {"values": np.zeros((10, 6)), "time": np.arange(9)}, "one per row"),
        ("imu", {"values": np.zeros((10, 6))}, '"time" and "sampling_rate"'),
        ("imu", b"ax,ay,az,gx,gy\n0,0,0,0,0\n", "lacks the column gz"),
        ("video", np.zeros((4, 8, 8, 5), np.uint8), "shape"),
        ("video", np.zeros((0, 8, 8, 3), np.uint8), "empty|no frames"),
        ("video", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "shape|size"),
    ],
)
def test_wrong_shapes_channels_and_rates(processor, name, medium, message):
    with refused(processor, f"^{name} 0: .*({message})", medium, kind=MediaError):
        give(processor, name, medium)


def test_images_of_several_sizes():
    """Of a tower that takes any size, with an image processor that leaves sizes as they are."""
    pixels = CLIPImageProcessor(do_resize=False, do_center_crop=False)
    tower = ConvNextConfig(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1])
    model, processor = tiny.composite(settings={"image": {"tower": tower, "processor": pixels, "aligner": "linear"}})
    rng = np.random.default_rng(0)
    images, alone = [rng.integers(0, 255, (64, side, 3), dtype=np.uint8) for side in (64, 96)], []
    for image, tokens in zip(images, (4, 6), strict=True):
        inputs = give(processor, "image", image, return_tensors="pt")
        assert inputs["input_ids"].shape == (1, tokens)
        alone.append(model(**inputs).logits[0])
    inputs = processor(text=["<image>", "<image>"], images=images, return_tensors="pt")
    together = model(**inputs).logits
    for row, one in zip(together, alone, strict=True):
        torch.testing.assert_close(row[-len(one) :], one, atol=2e-5, rtol=1e-4)


def test_sounds_too_short_for_their_tower():
    ears = {
        "tower": tiny.wav2vec2_config(),
        "processor": Wav2Vec2FeatureExtractor(return_attention_mask=True),
        "aligner": "linear",
    }
    _, processor = tiny.composite(settings={"audio": ears})
    for samples in (1, 50):
        sounds = [tiny.medium("audio"), tiny.medium("audio")[:samples]]
        with refused(processor, f"^audio 1: the tower cannot read its {samples} values", sounds, kind=MediaError):
            processor(text=text_of("audio", 2), audio=sounds)


def test_the_error_names_the_item(processor):
    media = [tiny.medium("imu"), tiny.medium("imu"), np.zeros((3, 2))]
    with refused(processor, "^imu 2: ", media, kind=MediaError):
        processor(text=["<imu> <imu>", "<imu>"], imu=media)
