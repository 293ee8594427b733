"""Where Transformers' own common tests come from.

They are not part of its wheel, but its source distribution holds them (without their subfolders). That of the
installed version is fetched once through an ordinary package client and kept in the user's cache.

    UPSTREAM_TESTS          a checkout of Transformers, or its `tests` folder, to take instead
    UPSTREAM_TESTS_CACHE    where to keep what was fetched, instead of the user's cache
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import transformers
from filelock import FileLock


VERSION = transformers.__version__
_SENTINEL = "test_modeling_common.py"
_TIMEOUT = 300  # seconds for one client


class Unavailable(Exception):
    """There are no upstream tests to run; the message tells why and what to do."""


_problem: Unavailable | None = None


def upstream_folder() -> Path:
    """The folder with upstream's `test_modeling_common.py`.

    Raises:
        Unavailable: none is given, none is cached, and none can be fetched.
    """
    global _problem
    if _problem is not None:
        raise _problem
    try:
        given = os.environ.get("UPSTREAM_TESTS")
        return _given(Path(given)) if given else _cached()
    except Unavailable as error:
        _problem = error  # tried once in a process
        raise


def _given(place: Path) -> Path:
    for folder in (place, place / "tests"):
        if (folder / _SENTINEL).is_file():
            return folder
    raise Unavailable(f"UPSTREAM_TESTS={place} holds no {_SENTINEL}")


def cache_folder() -> Path:
    if given := os.environ.get("UPSTREAM_TESTS_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "transformers-anymodality" / "upstream"


def _cached() -> Path:
    folder = cache_folder() / f"transformers-{VERSION}" / "tests"
    if (folder / _SENTINEL).is_file():
        return folder
    cache_folder().mkdir(parents=True, exist_ok=True)
    # xdist's workers come here at once: the first fetches, the others take what it got, or its failure.
    with FileLock(cache_folder() / "fetch.lock"):
        if (folder / _SENTINEL).is_file():
            return folder
        failure, run = cache_folder() / "failure", os.environ.get("PYTEST_XDIST_TESTRUNUID", "alone")
        if run != "alone" and failure.is_file() and failure.read_text().startswith(run):
            raise Unavailable(failure.read_text().removeprefix(run))
        try:
            with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
                unpacked = unpack(download(Path(scratch)), Path(scratch) / "unpacked")
                shutil.rmtree(folder.parent, ignore_errors=True)
                os.replace(unpacked, folder.parent)
        except Unavailable as error:
            failure.write_text(f"{run}{error}")
            raise
    return folder


def _clients() -> list[list[str]]:
    """Commands that behave like pip, the interpreter's own first."""
    found = [[sys.executable, "-m", "pip"]] if importlib.util.find_spec("pip") else []
    found += [[uv, "tool", "run", "pip"] for uv in [shutil.which("uv")] if uv]
    return found + [[pip] for pip in [shutil.which("pip"), shutil.which("pip3")] if pip]


def download(target: Path) -> Path:
    """The source distribution of the installed version, fetched to `target`."""
    arguments = ["download", "--quiet", "--no-deps", "--no-binary", "transformers", "--ignore-requires-python"]
    arguments += ["--retries", "1", "--disable-pip-version-check", "--dest", str(target), f"transformers=={VERSION}"]
    problems = []
    for client in _clients():
        try:
            done = subprocess.run([*client, *arguments], capture_output=True, text=True, timeout=_TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            problems.append(str(error))
            continue
        if archives := sorted(target.glob("*.tar.gz")):
            return archives[0]
        problems.append((done.stderr.strip().splitlines() or ["no output"])[-1])
    raise Unavailable(
        f"the source distribution of transformers {VERSION} could not be fetched "
        f"({'; '.join(dict.fromkeys(problems)) or 'neither pip nor uv was found'}); set UPSTREAM_TESTS to a checkout"
    )


def unpack(archive: Path, target: Path) -> Path:
    """Writes the archive's `tests` to `target/tests`: plain files only, and nothing outside of it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]
            if not member.isfile() or parts[:1] != ("tests",) or ".." in parts:
                continue
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
    if not (target / "tests" / _SENTINEL).is_file():
        raise Unavailable(f"the source distribution of transformers {VERSION} holds no tests/{_SENTINEL}")
    return target
