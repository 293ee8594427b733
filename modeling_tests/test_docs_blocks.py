"""The Python blocks of README and documentation run as they stand, against a Hub cache and files that are made here.

Each page has its blocks run in order, each in a namespace of its own: none may lean on what another one imported. A block that
begins with the name of a file (`# my_leads.py`) becomes that file, for the blocks below to import. Blocks that need more than
tiny parts are run by the tests that `ELSEWHERE` names.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    TimmWrapperConfig,
    TimmWrapperModel,
    WhisperModel,
)

from modeling_tests import tiny
from modeling_tests.docs import README, blocks, pages
from modeling_tests.hub_cache import publish, publish_documented
from transformers_anymodality import compose


TESTS = Path(__file__).parent
# Page -> the tests that run its blocks.
ELSEWHERE = {
    "compile.md": ["test_compile.py::test_the_export_of_the_documentation"],
    "gpus.md": ["test_parallel.py::test_what_the_documentation_runs"],
    "media.md": ["test_media_formats.py::test_what_the_documentation_runs"],
    "serving.md": [
        "test_serving.py::test_the_block_of_the_docs_runs",
        "test_vllm.py::test_the_block_of_the_docs_runs",
    ],
    "sizes.md": ["test_sizes_page.py::test_the_documented_call_from_parts_to_a_server"],
}
# Page -> what the block that another test runs holds; the others of the page run here.
PARTLY = {
    "evaluation.md": {"AISHELL": "test_docs_evaluation.py::test_benchmarks_of_sound_from_their_own_files"},
    "train.md": {
        "predict_with_generate": "test_seq2seq.py::test_the_block_of_the_docs_runs",
        "spec_augment": "test_augment.py::test_the_block_of_the_docs_runs",
    },
    "tuning.md": {"with_media": "test_trl.py::test_what_the_documentation_runs"},
}
# Nothing is uploaded: what would be pushed is copied instead. A failed block is told by its page and its error.
PRELUDE = """
import importlib, json, re, shutil, sys, traceback
from types import SimpleNamespace
from huggingface_hub import HfApi

def upload_folder(self, repo_id, folder_path, **kwargs):
    shutil.copytree(folder_path, "pushed/" + repo_id)
    return SimpleNamespace(pr_url=None, commit_url=repo_id)

HfApi.create_repo = lambda self, repo_id, **kwargs: SimpleNamespace(repo_id=repo_id)
HfApi.upload_folder = upload_folder
errors = {}
for page, blocks in json.load(open("blocks.json")).items():
    for number, block in enumerate(blocks):
        try:
            if named := re.match(r"# (\\w+)[.]py\\n", block):
                open(named[1] + ".py", "w", encoding="utf-8").write(block)
                importlib.import_module(named[1])
            else:
                exec(compile(block, f"{page}, block {number}", "exec"), {"__name__": "__main__"})
        except Exception:
            errors.setdefault(page, traceback.format_exc()[-3000:])
json.dump(errors, open("errors.json", "w"))
"""


def run_here() -> dict[str, list[str]]:
    """Page -> blocks, README's first: what it composes and trains is there for all."""
    kept = {
        page: [one for one in blocks(page) if not any(text in one for text in PARTLY.get(page, ()))]
        for page in pages()
        if page not in ELSEWHERE
    }
    return {page: found for page, found in kept.items() if found}


def fill(cache: Path) -> None:
    """Tiny versions, under their names, of what the pages take from the Hub."""
    publish_documented(cache)
    config = TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args={"depth": 1, "img_size": 32})
    config.pretrained_cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 0}
    publish(cache, "timm/vit_small_patch16_224.augreg_in21k_ft_in1k", TimmWrapperModel(config))
    dino = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    publish(cache, "facebook/dinov2-small", Dinov2Model(dino), BitImageProcessor(**sizes))
    publish(cache, "openai/whisper-tiny", WhisperModel(tiny.whisper_config()), tiny.feature_extractor())
    publish(cache, "HuggingFaceTB/SmolLM2-135M-Instruct", tiny.language_model("llama"), tiny.tokenizer())


def write_files(folder: Path) -> None:
    """Media, chats, and what `make quickstart` leaves: a model of its modalities, and a seven of each that README asks about."""
    Image.fromarray(tiny.medium("image")).save(folder / "photo.jpg")
    soundfile.write(folder / "speech.wav", tiny.medium("audio"), 16_000)
    walk = np.column_stack([np.arange(40) / 32, tiny.medium("imu")])
    np.savetxt(folder / "walk.csv", walk, delimiter=",", comments="", header="time,ax,ay,az,gx,gy,gz")
    say = [{"role": "user", "content": "what is this ?"}, {"role": "assistant", "content": "yes"}]
    heard = [
        {**say[0], "content": [{"type": "audio", "path": "speech.wav"}, {"type": "text", "text": "what ?"}]},
        say[1],
    ]
    seen = [{**say[0], "content": [{"type": "image"}, {"type": "text", "text": "what ?"}]}, say[1]]
    chats = {
        "alpaca": {"messages": say},
        "train": {"messages": seen, "images": ["red.jpg"]},
        "mine": {"messages": heard},
    }
    for name, chat in chats.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(chat) + "\n")
    (folder / "coco" / "train2017").mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(folder / "coco" / "train2017" / "red.jpg")
    settings = tiny.modalities("image", "audio", "imu")
    model, processor = compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())
    quickstart = folder / "outputs" / "quickstart"
    model.save_pretrained(quickstart / "model", processor=processor)
    for modality, name, file in (("image", "0000_7.png", "photo.jpg"), ("audio", "0000_7.wav", "speech.wav")):
        (quickstart / "world" / "test" / modality).mkdir(parents=True)
        place = quickstart / "world" / "test" / modality / name
        if modality == "image":
            Image.open(folder / file).save(place)
        else:
            place.write_bytes((folder / file).read_bytes())


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> dict[str, str]:
    """Page -> the error of its first block that fails, after all pages ran in one process."""
    for library in ("timm", "datasets", "peft", "evaluate", "sacrebleu"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("docs")
    fill(folder / "hub")
    write_files(folder)
    (folder / "blocks.json").write_text(json.dumps(run_here()))
    (folder / "run.py").write_text(PRELUDE)
    environment = {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "run.py"], cwd=folder, capture_output=True, text=True, timeout=500, env=environment
    )
    assert run.returncode == 0, run.stderr[-4000:]
    light, full = (
        sum(f.stat().st_size for f in (folder / name).glob("*.safetensors")) for name in ("my-model-light", "my-model")
    )
    assert light < full
    return json.loads((folder / "errors.json").read_text())


@pytest.mark.parametrize("page", run_here())
def test_every_block_runs(page, errors):
    assert page not in errors, errors[page]


def test_what_runs_elsewhere_has_a_test():
    named = [one for tests in ELSEWHERE.values() for one in tests]
    named += [one for tests in PARTLY.values() for one in tests.values()]
    for file, name in (one.split("::") for one in named):
        code = ast.parse((TESTS / file).read_text("utf-8"))
        assert name in {one.name for one in ast.walk(code) if isinstance(one, ast.FunctionDef)}, f"{file}: {name}"
    assert {*ELSEWHERE, *PARTLY} <= {page for page in pages() if blocks(page)}
    for page, tests in PARTLY.items():
        for text in tests:
            assert any(text in one for one in blocks(page)), f"{page}: no block holds {text}"


def test_blocks_have_a_language():
    """A block of no language, or of one that no test reads, would run nowhere."""
    for page, file in pages().items():
        opened = [line.strip() for line in file.read_text("utf-8").splitlines() if line.lstrip().startswith("```")]
        assert set(opened[::2]) <= {"```python", "```bash", "```text", "```json"}, page
        for text in blocks(page, "json"):
            json.loads(text)


def imported(code: str) -> list[str]:
    """The packages outside the standard library that a block imports, in order."""
    names = [
        name.split(".")[0]
        for node in ast.parse(code).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    ]
    return [name for name in names if name not in sys.stdlib_module_names]


@pytest.mark.parametrize("page", [page for page in pages() if blocks(page)])
def test_this_package_is_imported_first(page):
    """It silences what some libraries log when they are imported."""
    for code in blocks(page):
        assert (
            "transformers_anymodality" not in imported(code)[1:] or imported(code)[0] == "transformers_anymodality"
        ), code


def test_the_readme_is_short():
    assert len(pages()[README].read_text("utf-8").splitlines()) <= 150


def test_the_modality_of_ones_own_takes_at_most_forty_lines():
    (code,) = (one for one in blocks("own_encoder.md") if "SignalSpec(" in one)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
