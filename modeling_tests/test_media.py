"""Tests of the readers of media. Every medium is made here, by the libraries that write it."""

import base64
import http.server
import io
import struct
import subprocess
import sys
import threading
import types
import zlib
from pathlib import Path

import numpy as np
import pytest

from modeling_tests.media_files import LEVELS, STAMPS, encoded, places, png16, sound, tone, write_video
from transformers_anymodality import modalities
from transformers_anymodality.modalities import (
    Limits,
    MediaError,
    _fetch,
    frame_times,
    open_source,
    read_audio,
    read_image,
    read_map,
    read_signal,
    read_video,
)
from transformers_anymodality.utils import imports as _imports


Image = pytest.importorskip("PIL.Image")
soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")
torch = pytest.importorskip("torch")


class TestImports:
    def test_our_decoders_wait_until_they_are_needed(self):
        code = (
            "import sys, types; p = types.ModuleType('transformers_anymodality');"
            f"p.__path__ = [{str(Path(modalities.__file__).parents[1])!r}]; sys.modules[p.__name__] = p;"
            "import transformers.image_utils, transformers_anymodality.utils.upstream; others = set(sys.modules);"
            "import transformers_anymodality.modalities;"
            "print({'PIL', 'soundfile', 'soxr', 'torchaudio', 'av', 'torchcodec', 'pyarrow', 'pypdfium2', 'wfdb'} & (set(sys.modules) - others))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"

    @pytest.mark.parametrize(
        ("module", "extra"),
        [
            ("PIL.Image", "image"),
            ("soxr", "audio"),
            ("torchaudio.compliance.kaldi", "audio"),
            ("av", "audio,video"),
            ("pyarrow.parquet", "signal"),
            ("pypdfium2", "pdf"),
        ],
    )
    def test_missing_module_names_the_command(self, monkeypatch, module, extra):
        def missing(name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

        monkeypatch.setattr(_imports.importlib, "import_module", missing)
        with pytest.raises(ImportError, match=rf'pip install "transformers-anymodality\[{extra}\]"'):
            _imports.require.__wrapped__(module)  # one that was found is remembered

    @pytest.mark.parametrize(
        "error", [OSError("undefined symbol"), RuntimeError("no FFmpeg"), ImportError("libfoo.so")]
    )
    def test_broken_module_names_both_versions(self, monkeypatch, error):
        def broken(name):
            raise error

        monkeypatch.setattr(_imports.importlib, "import_module", broken)
        with pytest.raises(ImportError, match=rf"does not load.*{error}.*soxr .*with torch \d"):
            _imports.require.__wrapped__("soxr")


class TestSource:
    DATA = b"some bytes"

    @pytest.mark.parametrize(
        "make",
        [
            bytes,
            bytearray,
            memoryview,
            io.BytesIO,
            lambda data: {"base64": base64.b64encode(data).decode()},
            lambda data: {"path": "gone.bin", "bytes": data},
            lambda data: "data:text/plain;base64," + base64.b64encode(data).decode(),
            lambda data: "data:,some%20bytes",
        ],
    )
    def test_in_memory(self, make):
        assert open_source(make(self.DATA)).read() == self.DATA

    def test_paths(self, tmp_path, monkeypatch):
        path = tmp_path / "a.bin"
        path.write_bytes(self.DATA)
        monkeypatch.setenv("HOME", str(tmp_path))
        for source in (path, str(path), "~/a.bin", {"path": str(path), "bytes": None}):
            assert open_source(source) == path

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("no/such/file", "does not exist"),
            ("x" * 5000, "base64"),
            ("a\0b", "cannot be opened"),
            (b"", "is empty"),
            (io.BytesIO(), "seek"),
            (io.StringIO("text"), "binary mode"),
            ({"base64": "abc"}, "not valid base64"),
            ({"base64": "####"}, "not valid base64"),
            ({"path": None, "bytes": None}, "expected"),
            ({"url": "x"}, "expected"),
            ("data:image/png", "no comma"),
            ("file:///etc/passwd", "refused"),
            ("ftp://host/a", "only http and https"),
            ("https://user:secret@host/a.png?key=secret", "allow_urls=True"),
            (3, "expected a path"),
            (None, "expected a path"),
        ],
    )
    def test_refused(self, source, message):
        with pytest.raises(MediaError, match=message) as caught:
            open_source(source)
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 600

    def test_directory_empty_and_large(self, tmp_path):
        (tmp_path / "empty").touch()
        (tmp_path / "large").write_bytes(bytes(101))
        limits = Limits(max_bytes=100)
        for name, message in ((".", "a directory"), ("empty", "empty"), ("large", "limit of 100")):
            with pytest.raises(MediaError, match=message):
                open_source(tmp_path / name, limits=limits)
        large = bytes(101)
        for source in (large, io.BytesIO(large), {"base64": base64.b64encode(large).decode()}, "data:," + "a" * 101):
            with pytest.raises(MediaError, match="limit of 100"):
                open_source(source, limits=limits)


class _Handler(http.server.BaseHTTPRequestHandler):
    seen: list = []

    def do_GET(self):
        type(self).seen.append((self.path, self.headers["Host"]))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[len("/to/") :])
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        else:
            self.send_response(200)
            if self.path == "/zipped":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(b"x" * 1000)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on this machine that counts as public under the names *.test, which resolve to it."""
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    _Handler.seen = []
    threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
    real = _fetch._is_public
    hosts = {"media.test": ["127.0.0.1"], "inner.test": ["10.0.0.1"], "mixed.test": ["127.0.0.1", "192.168.0.1"]}

    def resolve(host, port, **options):
        if host not in hosts and not host[0].isdigit():
            raise OSError("unknown host")
        return [(None, None, None, "", (address, port)) for address in hosts.get(host, [host])]

    lookups = types.SimpleNamespace(**{name: getattr(_fetch.socket, name) for name in ("SOCK_STREAM",)})
    lookups.getaddrinfo = resolve
    monkeypatch.setattr(_fetch, "socket", lookups)
    monkeypatch.setattr(_fetch, "_is_public", lambda address: address == "127.0.0.1" or real(address))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    yield listener.server_address[1]
    listener.shutdown()
    listener.server_close()


class TestFetch:
    @pytest.mark.parametrize(
        ("address", "public"),
        [
            ("8.8.8.8", True),
            ("2606:4700::1111", True),
            ("127.0.0.1", False),
            ("10.1.2.3", False),
            ("169.254.169.254", False),
            ("100.64.0.1", False),
            ("224.0.0.1", False),
            ("0.0.0.0", False),
            ("::1", False),
            ("fe80::1%eth0", False),
            ("::ffff:127.0.0.1", False),
            ("::ffff:8.8.8.8", True),
            ("64:ff9b::7f00:1", False),
            ("2002:7f00:1::", False),
            ("2001:0:4136:e378::1", False),
            ("fec0::1", False),
        ],
    )
    def test_public_addresses(self, address, public):
        assert _fetch._is_public(address) is public

    def test_the_checked_address_is_dialled_under_the_name(self, server):
        read = open_source(f"http://media.test:{server}/a?b=c#d", allow_urls=True).read()
        assert read == b"x" * 1000
        assert _Handler.seen == [("/a?b=c", f"media.test:{server}")]

    def test_redirects_are_followed(self, server):
        assert open_source(f"http://media.test:{server}/to//a", allow_urls=True).read() == b"x" * 1000

    @pytest.mark.parametrize(
        ("path", "message", "requests"),
        [
            ("http://inner.test/a", "not a public address", 0),
            ("http://mixed.test/a", "192.168.0.1", 0),
            ("http://192.168.0.1/a", "not a public address", 0),
            ("http://nowhere.test/a", "cannot be resolved", 0),
            ("http://me:secret@media.test/a", "password", 0),
            ("http://media.test:port/a", "not a valid URL", 0),
            ("http:///a", "with a host", 0),
            ("{}/to/http://inner.test/a", "not a public address", 1),
            ("{}/to/file:///etc/passwd", "expected an http", 1),
            ("{}/loop", "more than 5 times", 6),
            ("{}/missing", "status 404", 1),
            ("{}/zipped", "compressed", 1),
        ],
    )
    def test_refused(self, server, path, message, requests):
        with pytest.raises(MediaError, match=message) as caught:
            open_source(path.format(f"http://media.test:{server}"), allow_urls=True)
        assert len(_Handler.seen) == requests
        assert "secret" not in str(caught.value)

    def test_size_is_capped_while_reading(self, server):
        with pytest.raises(MediaError, match="limit of 999"):
            open_source(f"http://media.test:{server}/a", allow_urls=True, limits=Limits(max_bytes=999))

    def test_tls_keeps_the_name(self, monkeypatch):
        from huggingface_hub.utils import httpx

        seen = []

        def answer(transport, request):
            seen.append(request)
            return httpx.Response(200, content=iter([b"x"]))

        monkeypatch.setattr(_fetch, "_resolve", lambda url, name: "2606:4700::1111")
        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
        assert open_source("https://media.test/a?b=c#d", allow_urls=True).read() == b"x"
        (request,) = seen
        assert str(request.url) == "https://[2606:4700::1111]/a?b=c"
        assert request.headers["Host"] == "media.test"
        assert request.extensions["sni_hostname"] == "media.test"


class TestImage:
    def test_exif_orientation(self):
        pixels = np.zeros((4, 8, 3), np.uint8)
        pixels[:, :4] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        read = np.asarray(read_image(encoded(Image.fromarray(pixels), exif=exif)))
        assert read.shape == (8, 4, 3)
        assert read[:4].min() == 255 and read[4:].max() == 0

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_broken_exif_is_no_obstacle(self):
        data = encoded(Image.new("RGB", (8, 8), (255, 0, 0)), exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
        assert read_image(data).getpixel((0, 0)) == (255, 0, 0)

    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
            (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), (255, 204, 204)),
            (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
            (Image.new("L", (2, 2), 77), (77, 77, 77)),
            (Image.new("1", (2, 2), 1), (255, 255, 255)),
            (Image.new("RGB", (2, 2), (1, 2, 3)).quantize(4), (1, 2, 3)),
            (Image.fromarray(np.full((2, 2), 40000, np.uint16)), (156, 156, 156)),
            (Image.fromarray(np.full((2, 2), 0.5, np.float32)), (128, 128, 128)),
        ],
        ids=lambda value: getattr(value, "mode", ""),
    )
    def test_modes(self, image, expected):
        kind = "TIFF" if image.mode == "F" else "PNG"
        for source in (image, encoded(image, kind)):
            read = read_image(source)
            assert read.mode == "RGB"
            assert read.getpixel((1, 1)) == expected

    def test_transparent_palette_and_key_colour(self):
        palette = Image.new("P", (2, 2), 0)
        palette.putpalette([200, 0, 0])
        assert read_image(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
        plain = Image.new("RGB", (2, 2), (9, 9, 9))
        assert read_image(encoded(plain, transparency=(9, 9, 9))).getpixel((0, 0)) == (255, 255, 255)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bits_are_scaled_not_clipped(self, kind):
        ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        read = np.asarray(read_image(encoded(Image.fromarray(ramp), kind)))
        assert np.abs(read[..., 0].astype(int).ravel() - np.arange(256)).max() <= 1

    @pytest.mark.parametrize(
        ("shape", "axis"),
        [((5, 7), None), ((5, 7, 1), 2), ((5, 7, 3), 2), ((5, 7, 4), 2), ((1, 5, 7), 0), ((3, 5, 7), 0)],
    )
    @pytest.mark.parametrize("to", [np.asarray, torch.from_numpy])
    @pytest.mark.parametrize("floating", [False, True])
    def test_arrays(self, shape, axis, to, floating):
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        if shape[-1] == 4:
            pixels[..., 3] = 255
        read = np.asarray(read_image(to(pixels.astype(np.float32) / 255 if floating else pixels)))
        expected = pixels[..., None] if axis is None else np.moveaxis(pixels, axis, 2)
        assert np.array_equal(read, np.broadcast_to(expected[..., :3], (5, 7, 3)))

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((5, 7, 2), np.uint8), r"array of shape \(5, 7, 2\).*expected"),
            (np.zeros((1, 5, 7, 3), np.uint8), "batch"),
            (np.zeros((3, 7, 3), np.uint8), "both"),
            (np.zeros((0, 7, 3), np.uint8), "empty"),
            (np.zeros((5, 7), np.int64), "uint8"),
            (np.full((5, 7), 200.0), "divide by 255"),
            (np.full((5, 7), -1.0), "normalisation"),
            (np.array([[0.0, np.nan]]), r"nan at index \(0, 1\)"),
            (np.zeros((5, 7), complex), "real numbers"),
        ],
    )
    def test_refused_arrays(self, array, message):
        with pytest.raises(MediaError, match=message):
            read_image(array)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
    def test_truncated(self, tmp_path, kind):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        path = tmp_path / "cut"
        data = encoded(noise, kind)
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(MediaError, match=f"{path}.*(truncated|corrupt)"):
            read_image(path)

    def test_corrupt_and_foreign(self):
        data = bytearray(encoded(Image.new("RGB", (64, 64))))
        data[50:60] = b"\xff" * 10
        with pytest.raises(MediaError, match="corrupt"):
            read_image(bytes(data))
        for other in (b"no image at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
            with pytest.raises(MediaError, match="known format"):
                read_image(other)

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_size_is_checked_before_decoding(self):
        huge = bytearray(png16(np.zeros((1, 1), np.uint16), 0))
        huge[16:24] = struct.pack(">II", 13000, 13000)
        huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
        with pytest.raises(MediaError, match="13000 x 13000.*limit of 1000"):
            read_image(bytes(huge), limits=Limits(max_pixels=1000))
        huge[16:24] = struct.pack(">II", 60000, 60000)
        huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
        with pytest.raises(MediaError, match="refused by Pillow"):
            read_image(bytes(huge))
        with pytest.raises(MediaError, match="limit of 3:"):
            read_image(Image.new("RGB", (2, 2)), limits=Limits(max_pixels=3))


class TestMap:
    @pytest.mark.parametrize(
        ("dtype", "kind"),
        [
            ("uint8", "PNG"),
            ("uint16", "PNG"),
            ("uint16", "TIFF"),
            ("int32", "TIFF"),
            ("float32", "TIFF"),
            ("uint8", "BMP"),
        ],
    )
    def test_raw_values(self, dtype, kind):
        values = (np.arange(35).reshape(5, 7) * (7 if dtype == "uint8" else 1000)).astype(dtype)
        read = read_map(encoded(Image.fromarray(values), kind))
        assert read.dtype == np.float32 and np.array_equal(read, values.astype(np.float32))
        assert np.array_equal(read_map(Image.fromarray(values)), read)

    @pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (5, 7, 1)])
    def test_arrays_and_npy(self, tmp_path, shape):
        values = np.arange(35, dtype=np.float64).reshape(shape) - 20
        np.save(tmp_path / "map.npy", values)
        for source in (values, torch.from_numpy(values), torch.from_numpy(values).bfloat16(), tmp_path / "map.npy"):
            assert np.array_equal(read_map(source), values.reshape(5, 7))

    def test_colour(self):
        values = np.arange(35, dtype=np.uint8).reshape(5, 7)
        grey = np.stack([values] * 3, -1)
        assert np.array_equal(read_map(encoded(Image.fromarray(grey))), values)
        for bad in (
            encoded(Image.fromarray(grey + np.array([0, 1, 0], np.uint8))),
            encoded(Image.new("RGBA", (3, 3))),
        ):
            with pytest.raises(MediaError, match="channels differ"):
                read_map(bad)
        with pytest.raises(MediaError, match="16 bits per channel"):
            read_map(png16(np.stack([values.astype(np.uint16)] * 3, -1), 2))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
    def test_not_finite(self, bad):
        values = np.zeros((5, 7))
        values[3, 2] = bad
        with pytest.raises(MediaError, match="row 3, column 2"):
            read_map(values)

    def test_hostile_npy(self, tmp_path):
        np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (20000, 20000)})
        (tmp_path / "cut.npy").write_bytes(header.getvalue() + bytes(100))
        (tmp_path / "head.npy").write_bytes(header.getvalue()[:20])
        for name, message in (("object", "unpickled"), ("cut", "truncated"), ("head", "not a readable")):
            with pytest.raises(MediaError, match=message):
                read_map(tmp_path / f"{name}.npy")
        with pytest.raises(MediaError, match="limit of 1000"):
            read_map(tmp_path / "cut.npy", limits=Limits(max_bytes=1000))
        with pytest.raises(MediaError, match="shape"):
            read_map(np.zeros((2, 5, 7)))


class TestAudio:
    @pytest.mark.parametrize(
        ("kind", "subtype", "error"),
        [
            ("WAV", "PCM_16", 1e-4),
            ("WAV", "FLOAT", 1e-7),
            ("FLAC", None, 1e-4),
            ("OGG", "VORBIS", 0.05),
            ("MP3", None, 0.05),
        ],
    )
    def test_files(self, tmp_path, kind, subtype, error):
        path = tmp_path / "sound"
        samples = tone(0.5, 16000)
        path.write_bytes(sound(samples, 16000, kind, subtype))
        for source in (path, str(path), path.read_bytes()):
            read = read_audio(source, 16000)
            assert read.dtype == np.float32 and read.shape == samples.shape
            assert np.abs(read - samples).max() < error

    @pytest.mark.parametrize(("rate", "wanted"), [(48000, 16000), (44100, 16000), (8000, 16000)])
    def test_resampling_keeps_the_tone(self, rate, wanted):
        read = read_audio(sound(tone(1.0, rate), rate), wanted)
        assert abs(len(read) - wanted) <= 1
        inner = slice(wanted // 10, -wanted // 10)
        assert np.abs(read[inner] - tone(1.0, wanted)[: len(read)][inner]).max() < 2e-3

    def test_resampling_does_not_fold(self):
        assert np.abs(read_audio((tone(1.0, 48000, 11000.0), 48000), 16000)[1000:-1000]).max() < 1e-3

    @pytest.mark.parametrize("to", [np.asarray, torch.from_numpy])
    def test_arrays(self, to):
        samples = tone(0.1, 16000)
        both = np.stack([samples, 3 * samples])
        for array, expected in ((samples, samples), (both, 2 * samples), (both.T.copy(), 2 * samples)):
            assert np.allclose(read_audio(to(array), 16000), expected, atol=1e-7)
            assert np.allclose(read_audio({"array": to(array), "sampling_rate": 16000}, 16000), expected, atol=1e-7)
        for dtype in (np.int16, np.int32):
            full = -float(np.iinfo(dtype).min)
            integers = (samples.astype(np.float64) * full).astype(dtype)
            assert np.abs(read_audio(to(integers), 16000) - samples).max() < 1e-4
        assert len(read_audio((to(samples), 8000), 16000)) == 2 * len(samples)

    def test_decoder_object(self):
        samples = np.stack([tone(0.1, 8000), -tone(0.1, 8000)])
        decoder = types.SimpleNamespace(
            metadata=types.SimpleNamespace(
                duration_seconds_from_header=None,
                begin_stream_seconds_from_header=None,
                num_channels=2,
                sample_rate=8000,
            ),
            get_samples_played_in_range=lambda begin, end: types.SimpleNamespace(
                data=torch.from_numpy(samples + 0.25), sample_rate=8000
            ),
        )
        assert np.allclose(read_audio(decoder, 8000), 0.25, atol=1e-6)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (np.zeros(0, np.float32), "empty"),
            (np.zeros((9, 100), np.float32), "9 channels"),
            (np.zeros((4, 4), np.float32), "axis of the channels"),
            (np.zeros((1, 2, 100), np.float32), "expected"),
            (np.zeros(100, np.uint8), "full scale"),
            (np.array([0.0] * 8000 + [np.nan]), r"nan at 0.5 s \(sample 8000\)"),
            (np.array([0.0, np.inf]), "inf at"),
            ((np.zeros(10), 0), "positive number of Hz"),
            ((np.zeros(2), 1e9), "too short"),
            ({"array": np.zeros(10)}, "sampling_rate"),
            ([[0.0], [0.0, 1.0]], "cannot be converted to an array"),
            (np.zeros(16000 * 11), "limit of 10 s"),
            ((np.zeros(110), 10), "limit of 10 s"),
        ],
    )
    def test_refused_arrays(self, source, message):
        with pytest.raises(MediaError, match=message):
            read_audio(source, 16000, limits=Limits(max_seconds=10))

    @pytest.mark.parametrize(
        ("kind", "subtype"), [("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None), ("AIFF", None)]
    )
    def test_truncated(self, tmp_path, kind, subtype):
        path = tmp_path / "cut"
        data = sound(tone(3.0, 16000), 16000, kind, subtype)
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(MediaError, match=f"{path}.*(truncated|corrupt)"):
            read_audio(path, 16000)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/passwd\n", "playlist"),
            (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
            (b"#EXTM3U\n\0\1\2\3", "playlist"),
            (b"hello, I am no sound", "text"),
            (bytes(range(256)) * 20, "cannot be decoded|truncated or corrupt"),
            (sound(np.zeros(0, np.float32), 16000), "no samples"),
        ],
    )
    def test_foreign(self, data, message):
        with pytest.raises(MediaError, match=message):
            read_audio(data, 16000)

    def test_long_file_is_refused(self):
        with pytest.raises(MediaError, match="more than the limit of 1 s"):
            read_audio(sound(tone(2.0, 8000), 8000), 8000, limits=Limits(max_seconds=1))

    def test_track_of_a_video_by_av(self, tmp_path, movie):
        path = tmp_path / "sound.m4a"
        with av.open(str(path), "w", format="mp4") as file:
            stream = file.add_stream("aac", rate=16000, layout="stereo")
            samples = np.stack([tone(1.0, 16000)] * 2)
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
            frame.sample_rate, frame.pts = 16000, 0
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
        read = read_audio(path, 16000)
        assert abs(len(read) - 16000) <= 1024
        assert np.abs(read[2000:14000] - tone(1.0, 16000)[2000:14000]).max() < 0.05
        with pytest.raises(MediaError, match="limit of 0.5 s"):
            read_audio(path, 16000, limits=Limits(max_seconds=0.5))
        with pytest.raises(MediaError, match="no audio track|cannot be decoded"):
            read_audio(movie, 16000)


def shown(times):
    """Places of the frames of STAMPS on display at `times`."""
    return np.searchsorted(np.array(STAMPS) / 1000, np.asarray(times) + 1e-6, side="right") - 1


class TestVideo:
    def test_frame_times(self):
        assert np.allclose(frame_times(1.0, 3.0, 4), [1.25, 1.75, 2.25, 2.75])
        for bad in ((0, 1, 0), (0, 1, -1), (0, 1, 1.5), (1, 0, 3), (0, float("nan"), 3)):
            with pytest.raises(MediaError):
                frame_times(*bad)

    @pytest.mark.parametrize("num_frames", [1, 2, 5, 8, 25])
    def test_uneven_frames_by_time(self, movie, num_frames):
        read = read_video(movie, num_frames)
        assert read.dtype == np.uint8 and read.shape == (num_frames, 48, 64, 3)
        with av.open(str(movie)) as file:
            end = max(
                float((packet.pts + packet.duration) * packet.time_base)
                for packet in file.demux(video=0)
                if packet.size
            )
        assert 1.9 < end < 2.0
        assert places(read).tolist() == shown(frame_times(0.0, end, num_frames)).tolist()

    def test_what_a_decoder_fails_on_is_told(self):
        def fails(*args):
            raise RuntimeError("no more frames")

        information = types.SimpleNamespace(
            begin_stream_seconds=0.0, end_stream_seconds=2.0, num_frames=10, width=64, height=48
        )
        decoder = types.SimpleNamespace(metadata=information, get_frames_played_at=fails, get_frames_at=fails)
        with pytest.raises(MediaError, match="cannot be decoded as video.*RuntimeError: no more frames"):
            read_video(decoder, 5)

    def test_webm_without_counts_and_durations(self, tmp_path):
        buffer = io.BytesIO()
        buffer.seekable = lambda: False  # so that the writer cannot go back and fill in the duration
        stamps = [0, 100, 200, 1000]
        write_video(buffer, stamps, LEVELS[:4], "libvpx", kind="webm")
        with av.open(io.BytesIO(buffer.getvalue())) as file:
            assert file.streams.video[0].frames == 0
        assert places(read_video(buffer.getvalue(), 3)).tolist() == [1, 2, 2]

    def test_rotation(self, tmp_path):
        path = tmp_path / "lying.mp4"
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:, :32] = 255
        write_video(str(path), [0, 40], [pixels, pixels])
        assert read_video(path, 1).shape == (1, 48, 64, 3)
        data = path.read_bytes()
        at = data.index(b"tkhd")
        unit = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        at = data.index(unit, at)
        turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # 90 degrees clockwise
        read = read_video(data[:at] + turned + data[at + len(unit) :], 1)
        assert read.shape == (1, 64, 48, 3)
        assert read[0, :28].min() > 200 and read[0, 36:].max() < 50

    @pytest.mark.parametrize("channels_first", [False, True])
    @pytest.mark.parametrize("to", [np.asarray, torch.from_numpy])
    def test_arrays(self, channels_first, to):
        frames = np.random.default_rng(0).integers(0, 256, (10, 5, 7, 3), dtype=np.uint8)
        given = np.ascontiguousarray(np.moveaxis(frames, 3, 1)) if channels_first else frames
        assert np.array_equal(read_video(to(given), 10), frames)
        assert np.array_equal(read_video(to(given), 5), frames[[1, 3, 5, 7, 9]])
        assert np.array_equal(read_video(to(given[:2]), 4), frames[[0, 0, 1, 1]])
        assert np.array_equal(read_video(to(given.astype(np.float32) / 255), 10), frames)

    def test_lists(self, tmp_path):
        frames = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
        path = tmp_path / "frame.png"
        Image.fromarray(frames[2]).save(path)
        assert np.array_equal(read_video([Image.fromarray(frames[0]), frames[1], path], 3), frames)
        for bad, message in (
            ([], "at least one"),
            ([frames[0], frames[1][:, :6]], "one size"),
            ([frames[0], "gone.png"], "Frame 1 .*does not exist"),
            ([frames[0], "http://host/a.png"], "allow_urls"),
        ):
            with pytest.raises(MediaError, match=message):
                read_video(bad, 2)

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_animations(self, kind):
        images = [Image.new("RGB", (8, 6), (level,) * 3) for level in (0, 100, 200)]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(images[0], kind, save_all=True, append_images=images[1:], duration=[100, 100, 600], **options)
        read = read_video(data, 4)  # at 100, 300, 500 and 700 ms
        assert read.shape == (4, 6, 8, 3)
        assert read[:, 0, 0, 0].tolist() == [100, 200, 200, 200]
        with pytest.raises(MediaError, match="limit of 2"):
            read_video(data, 4, limits=Limits(max_frames=2))
        with pytest.raises(MediaError, match="limit of 0.5 s"):
            read_video(data, 4, limits=Limits(max_seconds=0.5))

    @pytest.mark.parametrize("order", ["NCHW", "NHWC"])
    def test_decoder_object(self, order):
        frames = np.random.default_rng(0).integers(0, 256, (10, 5, 7, 3), dtype=np.uint8)
        given = torch.from_numpy(frames if order == "NHWC" else np.ascontiguousarray(np.moveaxis(frames, 3, 1)))
        decoder = types.SimpleNamespace(
            metadata=types.SimpleNamespace(
                begin_stream_seconds=2.0, end_stream_seconds=3.0, num_frames=10, width=7, height=5
            ),
            get_frames_played_at=lambda times: types.SimpleNamespace(
                data=given[[int((time - 2.0) * 10) for time in times]]
            ),
            get_frames_at=None,
        )
        assert np.array_equal(read_video(decoder, 5), frames[[1, 3, 5, 7, 9]])
        with pytest.raises(MediaError, match="limit of 0.5 s"):
            read_video(decoder, 5, limits=Limits(max_seconds=0.5))

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            (Limits(max_seconds=1.0), "limit of 1 s"),
            (Limits(max_frames=9), "limit of 9"),
            (Limits(max_pixels=3000), "64 x 48 pixels.*limit of 3000"),
            (Limits(max_bytes=64 * 48 * 3 * 8 - 1), "need"),
        ],
    )
    def test_limits(self, movie, limits, message):
        with pytest.raises(MediaError, match=message):
            read_video(movie, 8, limits=limits)

    @pytest.mark.parametrize("cut", [20, 500, -200])
    def test_truncated(self, tmp_path, movie, cut):
        path = tmp_path / "cut.mp4"
        path.write_bytes(movie.read_bytes()[:cut])
        with pytest.raises(MediaError, match=f"{path}.*truncated"):
            read_video(path, 4)

    def test_truncated_matroska(self, tmp_path):
        path = tmp_path / "whole.mkv"
        write_video(str(path), STAMPS, LEVELS, kind="matroska")
        assert len(read_video(path, 2)) == 2
        data = path.read_bytes()
        with pytest.raises(MediaError, match="truncated"):
            read_video(data[: len(data) * 2 // 3], 4)

    def test_corrupt_index(self, movie):
        data = bytearray(movie.read_bytes())
        at = data.index(b"stbl")
        data[at : at + 200] = bytes(200)
        with pytest.raises(MediaError):
            read_video(bytes(data), 4)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "playlist"),
            (encoded(Image.new("RGB", (8, 8)), "JPEG"), "still image"),
            (sound(tone(0.5, 16000), 16000), "no video track|cannot be decoded"),
            (bytes(range(256)) * 20, "cannot be decoded"),
            (np.zeros((3, 4, 5), np.uint8), "expected frames"),
            (np.zeros((2, 3, 5, 3), np.uint8), "both"),
            (np.zeros((0, 4, 5, 3), np.uint8), "at least one|empty"),
            (np.full((2, 4, 5, 3), 2.0), "divide by 255"),
        ],
    )
    def test_refused(self, source, message):
        with pytest.raises(MediaError, match=message):
            read_video(source, 2)

    @pytest.mark.parametrize("num_frames", [0, -1, 2.0, True, None])
    def test_bad_counts(self, num_frames):
        with pytest.raises(MediaError, match="positive integer"):
            read_video(np.zeros((2, 4, 5, 3), np.uint8), num_frames)


NAMES = ["ax", "ay"]


def table(seconds, unit=1.0):
    return "time,Ay,note,AX\n" + "".join(f"{t * unit:.9g},{10 + t:.9g},x,{2 * t:.9g}\n" for t in seconds)


class TestSignal:
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_csv_by_names(self, tmp_path, separator):
        path = tmp_path / "a.csv"
        path.write_text("\ufeff" + table(np.arange(5) / 10).replace(",", separator) + "\n", encoding="utf-8")
        read = read_signal(path, NAMES, 10)
        assert read.dtype == np.float32
        assert np.allclose(read, [[0.2 * k, 10 + 0.1 * k] for k in range(5)], atol=1e-6)

    @pytest.mark.parametrize(
        ("title", "unit"),
        [
            ("T", 1),
            ("timestamp", 1),
            ("seconds", 1),
            ("time_s", 1),
            ("Time_ms", 1e3),
            ("timestamp_ms", 1e3),
            ("time_us", 1e6),
            ("time_ns", 1e9),
        ],
    )
    def test_units(self, title, unit):
        read = read_signal(table(np.arange(5) / 10, unit).replace("time", title, 1).encode(), NAMES, 10)
        assert len(read) == 5 and np.allclose(read[:, 0], 0.2 * np.arange(5), atol=1e-6)

    def test_epoch_nanoseconds_keep_their_digits(self):
        start = 1_763_800_000_123_456_789
        rows = "".join(f"{start + k * 1000},{k},0\n" for k in range(5))
        read = read_signal(f"time_ns,ax,ay\n{rows}".encode(), NAMES, 1e6)
        assert read[:, 0].tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("text", ["1,10\n2,20\n", "0,1,10\n0.1,2,20\n"])
    def test_csv_without_header(self, text):
        assert read_signal(text.encode(), NAMES, 10).tolist() == [[1, 10], [2, 20]]

    @pytest.mark.parametrize("timed", [None, "time", "stamps"])
    def test_parquet(self, tmp_path, timed):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"AY": [10, 11, 12], "ax": [0.0, 0.5, 1.0], "other": ["a", "b", "c"]}
        if timed == "time":
            columns["time"] = [5.0, 5.1, 5.2]
        elif timed == "stamps":
            columns["timestamp"] = pyarrow.array([0, 100, 200], pyarrow.timestamp("ms"))
        path = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.table(columns), path)
        assert read_signal(path, NAMES, 10).tolist() == [[0, 10], [0.5, 11], [1, 12]]
        with pytest.raises(MediaError, match="lacks the column az.*AY, ax, other"):
            read_signal(path, ["ax", "az"], 10)
        with pytest.raises(MediaError, match="expected numbers"):
            read_signal(path, ["other"], 10)
        with pytest.raises(MediaError, match="Parquet"):
            read_signal(path.read_bytes()[:-20], NAMES, 10)
        columns["ax"] = [0.0, None, 1.0]
        parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(MediaError, match="row 1, column ax is empty"):
            read_signal(path, NAMES, 10)

    def test_arrays_and_npy(self, tmp_path):
        values = np.arange(20.0).reshape(10, 2)
        np.save(tmp_path / "a.npy", values)
        for source in (
            values,
            torch.from_numpy(values),
            tmp_path / "a.npy",
            {"values": values, "sampling_rate": 50},
            values.T,
        ):
            assert np.array_equal(read_signal(source, NAMES, 50), values)
        assert read_signal({"array": values, "time": np.arange(10) / 50 + 7}, NAMES, 50).tolist() == values.tolist()
        assert read_signal(values[:, 0], ["ax"], 50).shape == (10, 1)
        for bad, message in (
            (values[:2], "either axis"),
            (np.zeros((5, 3)), "time column apart"),
            (np.zeros((0, 2)), "empty"),
            ({"values": values}, 'one of "time" and "sampling_rate"'),
            ({"values": values, "time": [0, 1]}, "one per row"),
            ([[1, 2]], "expected a file"),
        ):
            with pytest.raises(MediaError, match=message):
                read_signal(bad, NAMES, 50)

    def test_irregular_times_are_interpolated(self):
        generator = np.random.default_rng(0)
        times = np.cumsum(generator.uniform(0.005, 0.015, 400))
        values = np.stack([np.sin(times), 3 * times], 1)
        read = read_signal({"values": values, "time": times}, NAMES, 100)
        grid = times[0] + np.arange(len(read)) / 100
        assert len(read) == int((times[-1] - times[0]) * 100) + 1
        assert np.abs(read - np.stack([np.sin(grid), 3 * grid], 1)).max() < 1e-4

    @pytest.mark.parametrize("jitter", [0.0, 0.3])
    def test_decimation_does_not_fold(self, jitter):
        times = (np.arange(4000) + jitter * np.random.default_rng(0).uniform(-1, 1, 4000)) / 1000
        slow, fast = np.sin(2 * np.pi * times) + 1e4, np.sin(2 * np.pi * 101 * times)
        read = read_signal({"values": np.stack([slow, fast], 1), "time": times}, NAMES, 50)
        grid = times[0] + np.arange(len(read)) / 50
        assert np.abs(read[:, 0] - np.sin(2 * np.pi * grid) - 1e4)[1:-1].max() < 5e-3
        assert np.abs(read[1:-1, 1]).max() < 0.05  # picking readings would give a tone of 1 Hz at full height

    def test_declared_rate_from_a_dict(self):
        read = read_signal({"values": np.arange(10.0)[:, None], "sampling_rate": 10}, ["ax"], 20)
        assert np.allclose(read[:, 0], np.arange(19) / 2)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("ax,az\n1,2\n", "lacks the column ay; it has ax, az"),
            ("ax,ay,AX\n1,2,3\n", "more than one column named ax"),
            ("t,time_ms,ax,ay\n1,2,3,4\n2,3,4,5\n", "time columns that contradict"),
            ("ax,ay\n", "no readings"),
            ("\n\n", "no rows"),
            ("1,2,3,4\n", "no header row"),
            ("ax,ay\n1,2\n3,\n", r"data row 1 \(line 3\), column ay holds ''"),
            ("ax,ay\n1,nan\n", "data row 0 .*column ay.*finite"),
            ("ax,ay\n1,2\n3,1e999\n", "data row 1 .*column ay.*finite"),
            ("ax;ay\n1,5;2\n", "column ax holds '1,5'.*point"),
            ("ax,ay\n1,2\n3\n", "data row 1 .*1 cells, expected 2.*truncated"),
            ("time,ax,ay\n2026-01-01,1,2\n", "not a date"),
            ("time,ax,ay\nnan,1,2\n", "finite time"),
            ("time,ax,ay\nsNaN,1,2\n", "not a date"),
            ("time,ax,ay\n0,1,2\n0.1,1,2\n0.1,1,2\n", "time of row 2 .*is not later than"),
            ("time,ax,ay\n0,1,2\n0.2,1,2\n0.1,1,2\n", "time of row 2 "),
            ("time,ax,ay\n0,1,2\n100,1,2\n200,1,2\n", "time_ms"),
            ("time,ax,ay\n0,1,2\n5000,1,2\n", "limit of 3600"),
            ("a\0b", "binary"),
        ],
    )
    def test_refused_csv(self, text, message):
        with pytest.raises(MediaError, match=message):
            read_signal(text.encode(), NAMES, 10)

    def test_other_files(self):
        with pytest.raises(MediaError, match="UTF-8"):
            read_signal("ax,ay\n1,2 \u00b0\n".encode("latin-1"), NAMES, 10)
        with pytest.raises(MediaError, match="zip"):
            read_signal(b"PK\x03\x04rest", NAMES, 10)

    def test_gaps(self):
        times = np.concatenate([np.arange(10), np.arange(10) + 60]) / 100
        source = {"values": np.zeros((20, 2)), "time": times}
        with pytest.raises(MediaError, match=r"gap of 0.51 s between rows 9 and 10 \(0.09 s and 0.6 s"):
            read_signal(source, NAMES, 100)
        assert len(read_signal(source, NAMES, 100, max_gap=1.0)) == 70
        # A quarter of a second is allowed however dense the recording.
        assert (
            len(read_signal({**source, "time": np.concatenate([np.arange(10), np.arange(10) + 30]) / 100}, NAMES, 100))
            == 40
        )

    def test_not_finite_and_limits(self):
        values = np.zeros((10, 2))
        values[4, 1] = np.inf
        with pytest.raises(MediaError, match="inf at row 4, column ay"):
            read_signal(values, NAMES, 10)
        with pytest.raises(MediaError, match="limit of 5 s"):
            read_signal(np.zeros((60, 2)), NAMES, 10, limits=Limits(max_seconds=5))
        with pytest.raises(MediaError, match="limit of 5"):
            read_signal(("ax,ay\n" + "1,2\n" * 60).encode(), NAMES, 10, limits=Limits(max_seconds=5))

    @pytest.mark.parametrize(
        ("channels", "rate", "gap", "message"),
        [
            ("ax", 10, None, "sequence of names"),
            ([], 10, None, "sequence of names"),
            (["ax", "AX"], 10, None, "repeats"),
            (["ax"], 0, None, "sampling_rate"),
            (["ax"], float("nan"), None, "sampling_rate"),
            (["ax"], 10, -1, "max_gap"),
        ],
    )
    def test_bad_arguments(self, channels, rate, gap, message):
        with pytest.raises(MediaError, match=message):
            read_signal(np.zeros((5, 1)), channels, rate, max_gap=gap)
