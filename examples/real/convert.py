"""Converts fetched weights to ordinary Hugging Face folders, which `compose` and the Auto classes load.

    PYTHONPATH=examples python -m real.convert [NAME ...] [--output outputs/parts] [--check]

| folder | from | as |
|---|---|---|
| `language_model/` | GGUF | LlamaForCausalLM in float32, its tokenizer with chat template |
| `whisper/` | CTranslate2's `model.bin` | WhisperForConditionalGeneration, tokenizer, feature extractor |
| `hearing/` | the same | the same for 10 s of audio instead of 30: a third of the work |
| `efficientnet/` | .pth | timm's `tf_efficientnet_lite0` in Transformers' wrapper |
| `minilm/` | safetensors | unchanged |

Each is written once, completely or not at all. `--check` runs each of them on a known input.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from . import ctranslate2
from .fetch import OUTPUT, fetch


def only(folder: Path, pattern: str) -> Path:
    """The only file in `folder`, or below, that matches the pattern."""
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(f"{folder} holds {len(found)} files {pattern}; one was expected.")
    return found[0]


def language_model(raw: Path, target: Path) -> None:
    """SmolLM2 from GGUF. Transformers dequantises the weights, but marks them as quantised, and would not save them."""
    file = only(raw, "*.gguf")
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.hf_quantizer.remove_quantization_config(model)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)


def whisper(raw: Path, target: Path) -> None:
    """Whisper tiny.en from CTranslate2's format."""
    ctranslate2.convert(only(raw, "model.bin").parent, target)


def hearing(raw: Path, target: Path, seconds: int = 10) -> None:
    """Whisper for short audio; the stock one pads to 30 s. Its encoder has a position for each 20 ms; later ones are cut."""
    whisper(raw, target)
    model, extractor = AutoModel.from_pretrained(target), AutoFeatureExtractor.from_pretrained(target)
    positions = model.encoder.embed_positions.weight[: 50 * seconds].clone()
    model.encoder.embed_positions = torch.nn.Embedding.from_pretrained(positions)
    model.config.max_source_positions = len(positions)
    model.save_pretrained(target)
    type(extractor)(feature_size=extractor.feature_size, chunk_length=seconds).save_pretrained(target)


def efficientnet(raw: Path, target: Path) -> None:
    """EfficientNet-lite0 with timm's names. The file has the same layers in the same order under other names; loading
    compares the shapes."""
    config = TimmWrapperConfig(architecture="tf_efficientnet_lite0", num_labels=1000, do_pooling=True)
    model = TimmWrapperForImageClassification(config)
    weights = torch.load(only(raw, "*.pth"), map_location="cpu", weights_only=True)  # noqa: TID251  tensors alone
    named = dict(zip(model.timm_model.state_dict(), weights.values(), strict=True))
    model.timm_model.load_state_dict(named)
    own = model.timm_model.pretrained_cfg  # size, crop, mean and deviation of the release's training
    config.pretrained_cfg = {key: value for key, value in own.items() if key not in ("url", "hf_hub_id")}
    config.id2label = dict(enumerate(_class_names()))
    config.label2id = {name: i for i, name in config.id2label.items()}
    model.save_pretrained(target)


def _class_names() -> list[str]:
    """Names of ImageNet's 1000 classes, from timm."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo()
    return [f"{names.index_to_description(i).split(',')[0]} ({i})" for i in range(1000)]  # some classes share a name


def minilm(raw: Path, target: Path) -> None:
    """A judge of captions; it already is an ordinary folder."""
    shutil.copytree(only(raw, "model.safetensors").parent, target, dirs_exist_ok=True)


# Folder's name -> its part, and the function that converts it.
FOLDERS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "language_model": ("smollm2", language_model),
    "whisper": ("whisper", whisper),
    "hearing": ("whisper", hearing),
    "efficientnet": ("efficientnet", efficientnet),
    "minilm": ("minilm", minilm),
}


def convert(names: list[str] | None = None, output: Path = OUTPUT) -> dict[str, Path]:
    """Creates the named folders (default: all of `FOLDERS`), and fetches their parts.

    Returns:
        Name -> folder. Folders whose parts cannot be fetched are reported and left out.
    """
    folders = {}
    for name in names or FOLDERS:
        part, make = FOLDERS[name]
        target = output / name
        if not target.is_dir():
            raw = fetch([part], output).folders.get(part)
            if raw is None:
                continue
            started = time.time()
            output.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(dir=output))
            try:
                make(raw, beside)
                beside.chmod(0o755)
                beside.rename(target)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
            print(f"{target}: made in {time.time() - started:.0f} s", flush=True)
        folders[name] = target
    return folders


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="real.convert", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"folders: {', '.join(FOLDERS)}; default: all")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for all results")
    parser.add_argument("--check", action="store_true", help="check of each folder's output and keys")
    given = parser.parse_args(arguments)
    folders = convert(given.names, given.output)
    if given.check:
        from .check import check

        print(json.dumps(check(folders, given.output), indent=1))


if __name__ == "__main__":
    main()
