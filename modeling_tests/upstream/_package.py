"""Upstream's tests as the importable package `tests`, as they name themselves."""

import atexit
import json
import os
import re
import sys
import tempfile
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import transformers
from transformers import testing_utils

from . import _stand_ins
from ._source import Unavailable, upstream_folder


# Module of the package -> names that are taken from the stand-ins if upstream's folder lacks the module.
_MODULES = {
    "tests.generation.test_utils": ("GenerationTesterMixin",),
    "tests.exporters.test_export": ("ExportTesterMixin",),
    "tests.utils.test_configuration_utils": ("config_common_kwargs",),
    "tests.pipelines.test_pipelines_text_generation": ("TextGenerationPipelineTests",),
    "tests.pipelines.test_pipelines_image_text_to_text": ("ImageTextToTextPipelineTests",),
    "tests.pipelines.test_pipelines_any_to_any": ("AnyToAnyPipelineTests",),
    "tests.pipelines.test_pipelines_feature_extraction": ("FeatureExtractionPipelineTests",),
}
# Their tests are in checkouts only; where those skip themselves, upstream's reason stands.
CHECKOUT_ONLY = {"tests.generation.test_utils", "tests.exporters.test_export"}
LACKING: list[str] = []  # names that are stand-ins in this run


@cache
def _tests_package() -> Path:
    folder = upstream_folder()
    package = ModuleType("tests")
    package.__path__ = [str(folder)]
    sys.modules["tests"] = package
    for name, members in _MODULES.items():
        parent = name.rpartition(".")[0]
        if (folder / f"{'/'.join(name.split('.')[1:])}.py").is_file():
            continue
        if parent not in sys.modules and PathFinder.find_spec(parent, package.__path__) is None:
            sys.modules[parent] = ModuleType(parent)
            sys.modules[parent].__path__ = []
        module = ModuleType(name)
        for member in members:
            setattr(module, member, getattr(_stand_ins, member))
        sys.modules[name] = module
        LACKING.extend(members)
    media = ModuleType("fetch_hub_objects_for_ci")
    media.url_to_local_path = _stand_ins.url_to_local_path
    sys.modules["fetch_hub_objects_for_ci"] = media
    return folder


@cache
def tiny_models_folder() -> Path:
    """Where `PipelineTesterMixin` looks for models: `<model type>/<class name>`, and a table of them."""
    folder = tempfile.TemporaryDirectory(prefix="upstream-models-")
    atexit.register(folder.cleanup)
    classes = {"tokenizer_classes": ["PreTrainedTokenizerFast"], "processor_classes": ["CLIPImageProcessor"]}
    summary = {"AnyModalityForCausalLM": classes, "AnyModalityModel": classes}
    (Path(folder.name) / "reports").mkdir()
    (Path(folder.name) / "reports" / "tiny_model_summary.json").write_text(json.dumps(summary))
    return Path(folder.name)


def load(name: str) -> ModuleType:
    """Upstream's module `tests.<name>`; skips the importing test module if there is none."""
    try:
        _tests_package()
    except Unavailable as error:
        pytest.skip(f"Upstream's tests are not there: {error}", allow_module_level=True)
    os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = str(tiny_models_folder())
    # Upstream imports the library from beside its tests; what is to be tested is the installed one.
    with patch("transformers.utils.direct_transformers_import", lambda *args, **kwargs: transformers):
        __import__(f"tests.{name}")
    return sys.modules[f"tests.{name}"]


def markers() -> set[str]:
    """Names of pytest's marks in upstream's tests."""
    try:
        files = [
            *_tests_package().glob("*.py"),
            *_tests_package().glob("generation/*.py"),
            Path(testing_utils.__file__),
        ]
    except Unavailable:
        return set()
    return {name for file in files for name in re.findall(r"\bmark\.([a-z_0-9]+)", file.read_text("utf-8"))}
