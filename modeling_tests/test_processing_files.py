"""Media from files and URLs, through chats, are what the files hold."""

import base64
import copy
import io
from fractions import Fraction

import numpy as np
import pytest
import torch

from modeling_tests import tiny
from modeling_tests.processor_batches import MODALITIES


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """modality -> (file, the same medium in memory)."""
    Image, soundfile, av = (pytest.importorskip(name) for name in ("PIL.Image", "soundfile", "av"))
    folder = tmp_path_factory.mktemp("media")
    pixels, sound, readings = (tiny.medium(name) for name in ("image", "audio", "imu"))
    Image.fromarray(pixels).save(folder / "eye.png")
    deep = (np.arange(40 * 48).reshape(40, 48) * 31).astype(np.uint16)
    for name in ("depth", "thermal"):
        Image.fromarray(deep).save(folder / f"{name}.png")
    sound = (np.clip(sound / 4, -1, 1) * 32767).astype(np.int16)
    soundfile.write(folder / "ear.wav", sound, 16000, subtype="PCM_16")
    header = "gz,time_ms,ax,ay,az,gx,gy"
    lines = [",".join([str(r[5]), str(k * 1000 / 32), *map(str, r[:5])]) for k, r in enumerate(readings)]
    (folder / "walk.csv").write_text("\n".join([header, *lines]))
    with av.open(str(folder / "clip.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"crf": "0", "preset": "ultrafast"}
        for level in range(0, 250, 25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), "rgb24")
            frame.pts, frame.time_base = level // 25, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    clip = np.stack([np.full((48, 64, 3), level, np.uint8) for level in range(0, 250, 25)])
    return {
        "image": (folder / "eye.png", pixels),
        "depth": (folder / "depth.png", deep),
        "thermal": (folder / "thermal.png", deep),
        "audio": (folder / "ear.wav", sound),
        "imu": (folder / "walk.csv", {"values": readings, "time": np.arange(len(readings)) / 32}),
        "video": (folder / "clip.mp4", clip),
    }


@pytest.mark.parametrize("name", MODALITIES)
def test_files_through_chat_equal_what_they_hold(processor, files, name):
    path, medium = files[name]
    expected = tiny.inputs(processor, [{"role": "user", "content": [{"type": name, name: medium}]}])
    main = processor.modalities[name].main_input
    data = path.read_bytes()
    for part in (
        {"path": str(path)},
        {"path": path},
        {name: str(path)},
        {name: path},
        {"bytes": data},
        {name: data},
        {name: {"bytes": data, "path": None}},
        {name: io.BytesIO(data)},
    ):
        inputs = tiny.inputs(processor, [{"role": "user", "content": [{"type": name, **part}]}])
        assert inputs["input_ids"].tolist() == expected["input_ids"].tolist()
        tolerance = 0.05 if name == "video" else 1e-4  # the codec converts colours
        torch.testing.assert_close(inputs[main], expected[main], atol=tolerance, rtol=0)
    assert expected[main].std() > 1e-3


def test_maps_keep_their_sixteen_bits(processor, files):
    """8 bits would leave 256 different values at most."""
    processor = copy.deepcopy(processor)
    path, deep = files["depth"]
    for name in ("depth", "thermal"):
        processor.image_processor.do_resize = processor.image_processor.do_center_crop = False
        values = processor(**{name: str(path)})[f"{name}_values"]
        assert len(values[0, 0].unique()) == deep.size > 1000


def test_a_sampling_rate_belongs_to_arrays_not_to_files(processor, files):
    path, sound = files["audio"]
    expected = processor(audio=str(path))["input_features"]
    for kwargs in ({"sampling_rate": 8000}, {"audio_kwargs": {"sampling_rate": 8000}}):
        assert torch.equal(processor(audio=str(path), **kwargs)["input_features"], expected)
        slow = sound[::2].copy()
        assert torch.equal(
            processor(audio=slow, **kwargs)["input_features"], processor(audio=(slow, 8000))["input_features"]
        )
        chat = [{"role": "user", "content": [{"type": "audio", "path": str(path)}]}]
        assert torch.equal(tiny.inputs(processor, chat, processor_kwargs=kwargs)["input_features"], expected)


def test_openai_image_urls_are_images(processor, files):
    path, pixels = files["image"]
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    assert torch.equal(tiny.inputs(processor, chat)["pixel_values"], processor(images=pixels)["pixel_values"])
    chat[0]["content"][0] = {"type": "image", "base64": base64.b64encode(path.read_bytes()).decode()}
    assert torch.equal(tiny.inputs(processor, chat)["pixel_values"], processor(images=pixels)["pixel_values"])
