"""Start-up: imports, and loading and saving of checkpoints.

python -m benchmarks.starting [--quick]
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from . import _models as models
from ._ratio import Effort, Result, compare, compare_commands, main


# The classes of Transformers that the package subclasses or registers with.
_STOCK = (
    "import torch; from transformers import PreTrainedModel, GenerationMixin, PreTrainedConfig, ProcessorMixin, "
    "AutoModelForCausalLM, AutoProcessor, FeatureExtractionMixin, LogitsProcessorList, SuppressTokensLogitsProcessor, "
    "LlavaForConditionalGeneration, TrainerCallback"
)


def measure(effort: Effort) -> Iterator[Result]:
    rounds = max(1, effort.least // 2)  # each takes seconds
    with tempfile.TemporaryDirectory() as name:
        model, processor = models.composite(models.TINY)
        model.save_pretrained(name)
        processor.save_pretrained(name)
        anymodality = [sys.executable, "-m", "anymodality.cli"]
        found = compare_commands([*anymodality, "inspect", name], [*anymodality, "--help"], rounds)
    yield Result(8, "anymodality inspect", "anymodality --help", found, 1.5)
    if effort.largest:  # each import takes seconds
        python = [sys.executable, "-c"]
        found = compare_commands([*python, "import transformers_anymodality"], [*python, _STOCK], rounds)
        yield Result(8, "import of the package", "classes of Transformers that it subclasses", found, 1.02)
    yield from loading(effort)


def loading(effort: Effort) -> Iterator[Result]:
    sizes = models.sized(models.Sizes(768, 16, 16000, 256, 4, side=112, patch=14), effort)
    model, _ = models.composite(sizes)
    with tempfile.TemporaryDirectory() as name:
        folder, llava = Path(name, "ours"), Path(name, "llava")
        model.save_pretrained(folder)
        models.llava(model, sizes).save_pretrained(llava)
        files = [str(file) for file in folder.glob("*.safetensors")]

        def forget() -> None:
            for file in files:
                with open(file, "rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        def load() -> None:
            AutoModelForCausalLM.from_pretrained(folder)  # reads every weight, to find NaN and infinity

        def read() -> None:
            for file in files:
                _touch(load_file(file).values())

        def load_llava() -> None:
            _touch(LlavaForConditionalGeneration.from_pretrained(llava).state_dict().values())

        yield Result(12, "load, warm", "safetensors, mapped and read", compare(load, read, effort), 1.2)
        yield Result(12, "load, warm", "LLaVA, read", compare(load, load_llava, effort), 1.2)
        found = compare(lambda: (forget(), load()), lambda: (forget(), read()), effort)
        yield Result(12, "load, cold", "safetensors, mapped and read", found, 1.2)
    # In memory where possible: a busy disk delays writers, and this counts as their time.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        state = {name: weight.clone() for name, weight in model.state_dict().items()}
        folder, file = Path(name, "ours"), Path(name, "one.safetensors")
        found = compare(lambda: model.save_pretrained(folder), lambda: save_file(state, file), effort)
        yield Result(12, "save", "safetensors", found, 1.2)


def _touch(weights) -> float:
    """Reads every weight, because mapped files are read only on access."""
    return float(sum(weight.sum() for weight in weights if isinstance(weight, torch.Tensor)))


if __name__ == "__main__":
    main(__doc__ or "", measure)
