"""Speech of synthetic voices, for training only: espeak-ng's library, and flite's command."""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from .sentences import texts


RATE = 16_000  # Hz
TELEPHONE = 8_000  # Hz, for every second clip, as in real telephone recordings
CLIPS = 3000
# Name -> espeak-ng's voice and variant, words per minute, pitch (0 to 100).
ESPEAK = {
    "en-us+m3": (150, 40),
    "en-us+f2": (165, 60),
    "en+m7": (140, 35),
    "en+f4": (155, 55),
    "en-gb-scotland+m1": (150, 50),
    "en-gb-x-rp+f3": (170, 65),
    "en-029+m5": (145, 45),
}
FLITE = ("slt", "rms", "awb", "kal16")
LETTERS = ("letters",)  # flite reads a single A as the article, so espeak-ng says these
_SYNCHRONOUS, _SPEED, _PITCH, _UTF8 = 2, 1, 3, 1  # of espeak-ng's speak_lib.h
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """espeak-ng's library, from a folder with it and its `espeak-ng-data`. One per process, for one thread."""

    def __init__(self, folder: Path):
        data = next(folder.rglob("espeak-ng-data"))
        names = {"darwin": "*.dylib", "win32": "*.dll"}
        file = sorted(data.parent.glob(names.get(sys.platform, "*.so")))[0]
        self.library, self.blocks = ctypes.CDLL(str(file)), []
        self.rate = self.library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data.parent.resolve()), 0)
        if self.rate <= 0:
            raise RuntimeError(f"{file} does not find its data in {data}.")

        def keep(samples, count: int, _) -> int:
            if samples and count > 0:
                self.blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        self._keep = _CALLBACK(keep)  # kept, because the library calls it
        self.library.espeak_SetSynthCallback(self._keep)

    def say(self, text: str, voice: str) -> np.ndarray:
        """Returns: (samples,) float32 at `RATE`."""
        speed, pitch = ESPEAK[voice]
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}.")
        self.library.espeak_SetParameter(_SPEED, speed, 0)
        self.library.espeak_SetParameter(_PITCH, pitch, 0)
        self.blocks.clear()
        data = text.encode() + b"\0"
        self.library.espeak_Synth(data, len(data), 0, 1, 0, _UTF8, None, None)
        samples = np.concatenate(self.blocks) if self.blocks else np.zeros(0, np.int16)
        return soxr.resample(samples.astype(np.float32) / 32768, self.rate, RATE)


def _flite(folder: Path, text: str, voice: str, file: Path) -> None:
    program = next(folder.rglob("bin/flite"))
    libraries = next(folder.rglob("libflite.so.1")).parent
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries.resolve())}
    command = [str(program.resolve()), "-voice", voice, "-t", text, "-o", str(file)]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def load(
    folder: Path,
    espeak: Path | None,
    flite: Path | None,
    captions: Sequence[str] = (),
    avoid: Sequence[str] = (),
    count: int = CLIPS,
) -> dict[str, list[dict[str, Any]]]:
    """`train`: clips with `audio` (16 kHz), `text`, `voice` and `kind`. Made once, with the available voices.

    Args:
        folder: folder for clips; `clips.jsonl` is written last, so it shows that all clips exist.
        espeak, flite: unpacked packages; None leaves their voices out.
        captions, avoid: as in `sentences.texts`.
    """
    index = folder / "clips.jsonl"
    if index.is_file():
        return {"train": [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]}
    voices = [*(ESPEAK if espeak else ()), *(f"flite-{name}" for name in FLITE if flite)]
    if not voices:
        return {"train": []}
    folder.mkdir(parents=True, exist_ok=True)
    rng, clips, started = np.random.default_rng(0), [], time.time()
    for i, (kind, text) in enumerate(texts(count, captions, avoid)):
        able = [voice for voice in voices if voice in ESPEAK] if kind in LETTERS and espeak else voices
        audio = str(folder / f"{i:05}.wav")
        clips.append({"id": f"{i:05}", "audio": audio, "text": text, "voice": str(rng.choice(able)), "kind": kind})
    _speak(clips, espeak, flite)
    index.write_text("".join(json.dumps(clip) + "\n" for clip in clips), encoding="utf-8")
    print(f"{folder}: {len(clips)} clips of {len(voices)} voices in {time.time() - started:.0f} s", flush=True)
    return {"train": clips}


def _speak(clips: list[dict[str, Any]], espeak: Path | None, flite: Path | None) -> None:
    """Writes the clips: flite's in other processes, espeak-ng's in this one. Every second clip has telephone quality."""
    library = Espeak(espeak) if espeak else None
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1)) as pool:
        waiting = []
        for clip in clips:
            name = clip["voice"].removeprefix("flite-")
            if name != clip["voice"]:
                waiting.append(pool.submit(_flite, flite, clip["text"], name, Path(clip["audio"])))
        for clip in clips:
            if clip["voice"] in ESPEAK:
                spoken = library.say(_spelt(clip), clip["voice"])
                soundfile.write(clip["audio"], spoken, RATE, subtype="PCM_16")
        for one in waiting:
            one.result()
    for clip in clips[1::2]:
        samples, _ = soundfile.read(clip["audio"], dtype="float32")
        narrow = soxr.resample(soxr.resample(samples, RATE, TELEPHONE), TELEPHONE, RATE)
        soundfile.write(clip["audio"], narrow, RATE, subtype="PCM_16")


def _spelt(clip: dict[str, Any]) -> str:
    """Letters with pauses between them, so that they are not read as a word."""
    return ", ".join(clip["text"].split()) if clip["kind"] in LETTERS else clip["text"]
