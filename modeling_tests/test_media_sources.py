"""Where media come from: memory, paths and URLs, and what is refused of them; and libraries of decoders that are missing."""

import base64
import http.server
import io
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from transformers_anymodality import modalities
from transformers_anymodality.modalities import Limits, MediaError, _fetch, open_source
from transformers_anymodality.utils import imports as _imports


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
