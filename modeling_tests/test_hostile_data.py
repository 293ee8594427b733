"""Numbers, texts and shards that are made to break readers: each is one error of ours, with its file and place."""

import io
import json
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from modeling_tests import tiny
from modeling_tests.media_files import encoded, sound
from transformers_anymodality import MediaError
from transformers_anymodality.data import load, open_records
from transformers_anymodality.modalities import read_audio, read_image, read_map, read_signal


Image = pytest.importorskip("PIL.Image")
AXES = ("ax", "ay", "az", "gx", "gy", "gz")


# --- .npy ------------------------------------------------------------------------------------------------------------


def npy(body: bytes = bytes(96), version=(1, 0), **header) -> bytes:
    text = str({"descr": "<f4", "fortran_order": False, "shape": (4, 6)} | header).encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + body


def raw(text: bytes, length: int | None = None) -> bytes:
    return b"\x93NUMPY\x02\0" + struct.pack("<I", len(text) if length is None else length) + text


SHAPES = [(10**9, 10**9), (2**62, 2**62), (-4, -6), (-4, 6), (0, 6), (True, 6), (4.0, 6), "46", (), (1,) * 65 + (6,)]
DTYPES = ["|O", [("a", "<f4"), ("b", "<i4")], "<c8", "<U4", "|V4", "<M8[s]", "zz", ""]
NPY = {
    **{f"shape {shape!r:.30}": npy(shape=shape) for shape in SHAPES},
    **{f"dtype {dtype!r:.30}": npy(bytes(400), descr=dtype) for dtype in DTYPES},
    "order": npy(fortran_order="no"),
    "another key": npy(more=1),
    "no dict": raw(b"[1, 2]\n"),
    "code": raw(b"{'descr': __import__('os').system('false'), 'fortran_order': False, 'shape': (4, 6)}\n"),
    "bytes": raw(b"\xff\xfe\0\n"),
    "deep": raw(b"(" * 9000 + b"\n"),
    "deeper": raw(b"-" * 9000 + b"1\n"),
    "a long header": raw(b"{" + b" " * 200_000 + b"}\n"),
    "a longer header": raw(b"{", 2**32 - 1),
    "a long number": raw(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 6000 + b",)}\n"),
    "version 9": npy(version=(9, 0)),
    "cut": npy(bytes(95)),
    "cut header": npy()[:30],
    "cut magic": b"\x93NUMPY\x01",
    "a second array": npy() + npy(),
    "NaN": npy(np.full(24, np.nan, "<f4").tobytes()),
    "infinity": npy(np.full(24, np.inf, "<f4").tobytes()),
    "too large": npy(np.full(24, 1e300).tobytes(), descr="<f8"),
}


@pytest.mark.parametrize("kind", NPY)
def test_npy_files(kind, tmp_path):
    file = tmp_path / "hostile.npy"
    file.write_bytes(NPY[kind])
    for read in (read_map, lambda source: read_signal(source, AXES, 10)):
        with pytest.raises(MediaError, match="hostile.npy"):
            read(file)


def test_npy_files_that_are_sound():
    values = np.arange(24.0).reshape(4, 6)
    for array in (values, np.asfortranarray(values), values.astype(">f4"), values.astype("<f2"), values.astype("i8")):
        np.save(buffer := io.BytesIO(), array)
        assert np.array_equal(read_map(buffer.getvalue()), values)
    for save in (np.savez, np.savez_compressed):
        save(buffer := io.BytesIO(), values)
        for read in (read_map, lambda source: read_signal(source, AXES, 10)):
            with pytest.raises(MediaError, match="zip archive"):
                read(buffer.getvalue())


# --- CSV -------------------------------------------------------------------------------------------------------------

CELLS = [
    "nan",
    "-Infinity",
    "1e999",
    "1e99999999999999999999",
    "-1e999999999",
    "9" * 5000,
    "sNaN",
    "",
    "--",
    "0x10",
    "1+2j",
    "\0",
]


@pytest.mark.parametrize("cell", CELLS, ids=[cell[:12] for cell in CELLS])
@pytest.mark.parametrize("column", ["time", "ax"])
def test_csv_numbers(cell, column, tmp_path):
    rows = [["0", *"000000"], ["0.1", *"000000"], ["0.2", *"000000"]]
    rows[1][column == "ax"] = cell
    file = tmp_path / "walk.csv"
    file.write_bytes("\n".join(["time," + ",".join(AXES), *map(",".join, rows), ""]).encode())
    with pytest.raises(MediaError, match="walk.csv.*(line 3|row 1|is not later than)"):
        read_signal(file, AXES, 10)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3(", "é".encode("utf-16")])
def test_csv_text(bad, tmp_path):
    file = tmp_path / "walk.csv"
    file.write_bytes(",".join(AXES).encode() + b"\n0,0,0,0,0," + bad + b"\n")
    with pytest.raises(MediaError, match="walk.csv.*(UTF-8|line 2)"):
        read_signal(file, AXES, 10)


# --- JSON ------------------------------------------------------------------------------------------------------------

SOUND = {"messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": "yes"}]}
JSON = {
    "deep": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deeper": b'{"a":' * 100_000,
    "half": json.dumps(SOUND).encode()[:50],
    "bytes": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "a long number": b'{"a": ' + b"9" * 5000 + b"}",
    "half a character": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "UTF-16": json.dumps(SOUND).encode("utf-16"),
}


@pytest.mark.parametrize("kind", JSON)
def test_json(kind, tmp_path):
    (tmp_path / "chats.jsonl").write_bytes(json.dumps(SOUND).encode() + b"\n" + JSON[kind] + b"\n")
    records = open_records(tmp_path / "chats.jsonl")
    assert records[0] == SOUND
    with pytest.raises(ValueError, match="^Line 2 is (not JSON|nested too deeply)"):
        records[1]
    (tmp_path / "chats.json").write_bytes(b"[" + JSON[kind] + b"]")
    with pytest.raises(ValueError, match="chats.json is (not JSON|nested too deeply)"):
        open_records(tmp_path / "chats.json")


# --- WebDataset shards -----------------------------------------------------------------------------------------------

CHAT = json.dumps({"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "yes"}]}).encode()
MIXED = json.dumps({"messages": [{"role": "user", "content": [{"type": "image"}]}, SOUND["messages"][1]]}).encode()
SHARDS = {
    "a list": ([("b.json", b"[1, 2]")], "b.json holds a list"),
    "no JSON": ([("b.json", CHAT[:20])], "b.json is not JSON"),
    "deep": ([("b.json", b"[" * 100_000)], "b.json is nested too deeply"),
    "bytes": ([("b.json", b'{"a": "\xff"}')], "b.json is not JSON"),
    "missing": ([("b.json", CHAT), ("c.png", b"")], "sample"),
    "twice": ([("b.json", CHAT), ("b.json", CHAT)], "b.json occurs twice|Duplicate|lacks|sample 'b'"),
    "mixed": ([("b.json", MIXED)], "make all of them lists"),
}


def shard(file, *members) -> str:
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(file)


@pytest.mark.parametrize("kind", SHARDS)
def test_shards(kind, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    picture = encoded(Image.fromarray(tiny.medium("image")))
    members, message = SHARDS[kind]
    members = [("b.png", picture), *members]
    first = [("a.png", picture), ("a.json", CHAT)]
    with pytest.raises(ValueError, match=f"bad.tar.*({message})"):
        load(shard(tmp_path / "bad.tar", *first, *members))
    with pytest.raises(ValueError, match="text.tar, a.txt is not UTF-8"):
        load(shard(tmp_path / "text.tar", ("a.png", picture), ("a.txt", b"\xff\xfe")))
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tmp_path / "bad.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match="cut.tar cannot be read"):
        load(str(cut))


# --- what is not finite, and what is printed -------------------------------------------------------------------------


@pytest.mark.parametrize("peak", [1e19, 1e30, 3.4e38])
def test_what_becomes_infinite_is_refused(shared, peak):
    waves = (peak * np.sign(np.sin(np.arange(8000)))).astype(np.float32)
    data = sound(waves, 16_000, "WAV", "FLOAT")
    with pytest.raises(MediaError, match=r"audio 1: \w+ gives (nan|inf) for it, at \[.*too large"):
        shared[1](text="<audio><audio>", audio=[tiny.medium("audio"), data], return_tensors="pt")
    if peak > 1e38:
        with pytest.raises(MediaError, match="at 0 s .sample 0. after resampling"):
            read_audio(data, 8000)


PRINTING = """
import io, random, sys
import numpy as np
from PIL import Image
from modeling_tests.media_files import encoded, sound, tone
from transformers_anymodality.modalities import MediaError, read_audio, read_image
rng = random.Random(0)
noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
kinds = ("tiff_lzw", "tiff_deflate", "jpeg", "group4")
images = [encoded(noise.convert("1") if kind == "group4" else noise, "TIFF", compression=kind) for kind in kinds]
sounds = [sound(tone(1.0, 16000), 16000, kind) for kind in ("MP3", "OGG", "FLAC")]
print("begin", file=sys.stderr, flush=True)
for data in images + sounds:
    for _ in range(12):
        bad = bytearray(data)
        for _ in range(8):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        for source in (bytes(bad), data[: rng.randrange(1, len(data))]):
            try:
                read_image(source) if data in images else read_audio(source, 16000)
            except MediaError:
                pass
"""


def test_decoders_print_nothing():
    done = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, text=True, check=True)
    assert done.stderr.partition("begin\n")[2] == "" and done.stdout == ""


def test_what_libtiff_finds_is_in_the_error():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    data = bytearray(encoded(noise, "TIFF", compression="tiff_deflate"))
    data[len(data) // 2] ^= 255
    with pytest.raises(MediaError, match="(ZIPDecode|Decoding error|corrupt)"):
        read_image(bytes(data))
    assert read_image(encoded(noise, "TIFF", compression="tiff_deflate")).size == (60, 60)


def test_heic_says_what_to_do():
    with pytest.raises(MediaError, match="HEIC.*pip install pillow-heif"):
        read_image(struct.pack(">I4s4s", 24, b"ftyp", b"heic") + bytes(200))
