"""What comes in from outside runs no code, reaches no host and no file, and exhausts no machine.

Here: what a checkpoint may name, and small files that claim much. Elsewhere: URLs with every redirect and address
(test_media_sources, TestFetch), off unless allowed and local roots (test_serving*, test_bad_input), limits of each reader
(test_media_*, test_bad_input), control tokens that were typed (test_typed, test_serving_requests), pickles (test_checkpoints).
"""

import io
import json
import struct
import time
import zlib

import numpy as np
import pytest
from jinja2.exceptions import SecurityError
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

from modeling_tests import tiny
from transformers_anymodality import MediaError
from transformers_anymodality.modalities import Limits, read_audio, read_image, read_map, read_signal, read_video


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = tiny.composite(settings=tiny.modalities("image", "imu"))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def changed(saved, tmp_path):
    """A copy of the checkpoint, with one of its JSON files changed."""

    def change(name, edit):
        for file in saved.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        content = json.loads((saved / name).read_text())
        edit(content)
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return change


# --- checkpoints: names resolve through registries --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["TrainingArguments", "pipeline", "models", "LlamaForCausalLM", "AutoTokenizer", "os", "__builtins__"]
)
def test_processor_configs_name_processors_of_media_only(changed, name):
    def edit(config):
        config["image_processor"] = {"image_processor_type": name, "output_dir": "written"}

    folder = changed("processor_config.json", edit)
    with pytest.raises(ValueError, match=f"names {name!r}, which is not a known image processor"):
        AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config["image_config"].update(model_type="os"),
        lambda config: config["image_aligner_config"].update(model_type="subprocess.run"),
        lambda config: config["image_aligner_config"].update(hidden_act="__import__"),
        lambda config: config["text_config"].update(model_type="posixpath"),
        lambda config: config["text_config"].update(hidden_act="os.system"),
    ],
)
def test_model_configs_name_what_is_registered_only(changed, edit):
    folder = changed("config.json", edit)
    with pytest.raises((ValueError, KeyError)):
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


def test_code_in_a_checkpoint_is_not_run_unless_trusted(changed, tmp_path):
    ran = tmp_path / "ran"

    def edit(config):
        config["auto_map"] = dict.fromkeys(config["auto_map"], "evil.Evil")
        for part in ("image_config", "text_config", "image_aligner_config"):
            config[part]["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}

    folder = changed("config.json", edit)
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    AutoModelForCausalLM.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder)
    assert not ran.exists()


def test_chat_templates_run_in_a_sandbox(saved):
    processor = AutoProcessor.from_pretrained(saved)
    processor.chat_template = "{{ messages.__class__.__base__.__subclasses__() }}"
    with pytest.raises(SecurityError):
        processor.encode_prompt([{"role": "user", "content": "yes"}])


# --- media: small files that claim much are refused before they are decoded ---------------------------------------------


def png(width: int, height: int, rows: int) -> bytes:
    """A PNG whose header tells one size, and whose compressed data go on for `rows` rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(width + 1) * rows)) + b""


def gif(frames: int) -> bytes:
    buffer, still = io.BytesIO(), Image.new("P", (8, 8))
    stills = [still.copy() for _ in range(frames)]
    for number, frame in enumerate(stills):
        frame.putpixel((number % 8, 0), 1 + number % 7)  # equal frames become one
    still.save(buffer, "gif", save_all=True, append_images=stills, duration=20)
    return buffer.getvalue()


def flac(seconds: int) -> bytes:
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(seconds * 100, np.int16), 100, format="FLAC")
    return buffer.getvalue()


def parquet_of_text(rows: int, length: int) -> bytes:
    """One long word that is written once and meant many times."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    words = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, "int32"), ["9" * length])
    parquet.write_table(pyarrow.table({"x": words.dictionary_decode()}), buffer, compression="zstd")
    return buffer.getvalue()


def npy(shape: tuple[int, ...]) -> bytes:
    """The header alone."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("read", "make", "limits", "message"),
    [
        (read_image, lambda: png(60_000, 60_000, 1), Limits(), "pixels"),
        (read_map, lambda: png(60_000, 60_000, 1), Limits(), "pixels"),
        (lambda source, limits: read_video(source, 4, limits=limits), lambda: gif(60), Limits(max_frames=50), "50"),
        (lambda source, limits: read_audio(source, 100, limits=limits), lambda: flac(4000), Limits(), "3600 s"),
        (
            lambda source, limits: read_signal(source, ["x"], 100, limits=limits),
            lambda: npy((10**12, 1)),
            Limits(),
            "more than the limit",
        ),
        (
            lambda source, limits: read_signal(source, ["x"], 100, limits=limits),
            lambda: b"time,x\n0,1\n1e9,2\n",
            Limits(),
            "limit of 3600",
        ),
        (read_map, lambda: npy((10**6, 10**6)), Limits(), "more than the limit"),
        (
            lambda source, limits: read_video(source, 4, limits=limits),
            lambda: gif(60),
            Limits(max_total_pixels=599 * 64),
            "together, each counted 10 times in an animation, more than the limit",
        ),
        (
            lambda source, limits: read_image({"bytes": source, "page": 60}, limits=limits),
            lambda: gif(60),
            Limits(max_total_pixels=599 * 64),
            "together",
        ),
        (
            lambda source, limits: read_audio(source, 100, limits=limits),
            lambda: flac(4000),
            Limits(max_seconds=10**6, max_bytes=1_599_999),
            "400000 samples, 1600000 bytes once decoded",
        ),
        (
            lambda source, limits: read_signal(source, ["x"], 100, limits=limits),
            lambda: parquet_of_text(1_000, 100_000),
            Limits(),
            "column x holds string, expected numbers",
        ),
        (read_map, lambda: png(1000, 1000, 1), Limits(max_bytes=3_999_999), "4000000 bytes once decoded"),
    ],
)
def test_small_files_that_claim_much_are_refused_early(read, make, limits, message):
    data = make()
    assert len(data) < 200_000
    started = time.process_time()
    with pytest.raises(MediaError, match=message):
        read(data, limits=limits)
    assert time.process_time() - started < 5  # decoding what is claimed takes minutes, or all memory


def test_rows_behind_the_last_are_not_unpacked():
    """A PNG of 100 rows that unpacks to a thousand times as much."""
    assert read_image(png(100, 100, 100)).size == (100, 100)
    assert read_image(png(100, 100, 1_000_000)).size == (100, 100)


def test_text_in_images_is_not_unpacked(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("a", "x" * 50_000_000, zip=True)
    Image.new("L", (4, 4)).save(buffer, "png", pnginfo=info)
    with pytest.raises(MediaError):
        read_image(buffer.getvalue())
