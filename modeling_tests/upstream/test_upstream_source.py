"""How upstream's tests are fetched and unpacked."""

import io
import tarfile

import pytest
from modeling_tests.upstream import _source


def test_only_plain_files_of_the_tests_are_unpacked(tmp_path):
    archive = tmp_path / "some.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("some/tests/test_modeling_common.py", "some/tests/../../out.py", "some/setup.py", "/tests/in.py"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"text"))
        link = tarfile.TarInfo("some/tests/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    target = _source.unpack(archive, tmp_path / "target")
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()}
    assert files == {"some.tar.gz", "target/tests/test_modeling_common.py", "target/tests/in.py"}
    assert target == tmp_path / "target"


@pytest.mark.parametrize("clients", [[], [["no-such-client"]]])
def test_what_cannot_be_fetched_is_said(tmp_path, monkeypatch, clients):
    monkeypatch.setattr(_source, "_clients", lambda: clients)
    with pytest.raises(_source.Unavailable, match="could not be fetched .*set UPSTREAM_TESTS to a checkout"):
        _source.download(tmp_path)
