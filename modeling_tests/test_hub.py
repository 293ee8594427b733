"""Publishing to a Hub and loading from it: the unmodified client against the stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoModelForCausalLM, AutoProcessor

from modeling_tests import tiny
from modeling_tests.hub_stand_in import Hub
from transformers_anymodality.hub import publish as publishing
from transformers_anymodality.hub.inspect import inspect_checkpoint
from transformers_anymodality.hub.publish import dummy_inputs, publish


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anymal")
    model, processor = tiny.composite(settings=tiny.modalities("image", "video", "imu"))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that this process takes for the real one; processes that it starts are told by `HF_ENDPOINT`."""
    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture
def unchecked(monkeypatch):
    """Uploads without the fresh process, which other tests wait for."""
    monkeypatch.setattr(publishing, "check_reload", lambda *arguments: 0.0)


@torch.no_grad()
def logits(model, processor) -> torch.Tensor:
    return model(**dummy_inputs(processor)).logits


def test_push_is_one_commit_and_pull_gives_the_same_model(hub, saved, unchecked):
    folder, model, processor = saved
    done = publish(folder, "org/first", commit_message="Mine")
    commits = hub.repositories["org/first"].commits
    assert [title for _, title, _ in commits] == ["initial commit", "Mine"] and commits[-1][0] in done.url
    assert set(done.files) | {".gitattributes"} == set(commits[-1][2]) and not (folder / "README.md").exists()
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md"} <= set(done.files)
    pulled, again = AutoModelForCausalLM.from_pretrained("org/first"), AutoProcessor.from_pretrained("org/first")
    inputs = dummy_inputs(processor)
    assert torch.equal(pulled(**inputs).logits, model(**inputs).logits)
    assert torch.equal(dummy_inputs(again)["input_ids"], inputs["input_ids"])
    card = ModelCard(hf_hub_download("org/first", "README.md") and commits[-1][2]["README.md"].decode())
    assert card.data.pipeline_tag == "any-to-any" and 'from_pretrained("org/first"' in card.content


def test_inspecting_fetches_headers_alone(hub, saved, unchecked):
    publish(saved[0], "org/anymal")
    hub.requests.clear()
    found = inspect_checkpoint("org/anymal")
    assert found.to_dict() | {"source": None} == inspect_checkpoint(saved[0]).to_dict() | {"source": None}
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.safetensors"))


def test_a_model_in_memory_pushes_all_of_itself(hub, saved, unchecked, tmp_path):
    _, model, processor = saved
    with pytest.raises(ValueError, match="before its processor"):
        model.save_pretrained(tmp_path / "half", push_to_hub=True)
    url = model.push_to_hub("org/memory", processor=processor, tags=["mine"], private=True)
    commits = hub.repositories["org/memory"].commits
    assert len(commits) == 2 and commits[-1][0] in url and hub.repositories["org/memory"].private
    assert {"model.safetensors", "tokenizer.json", "anymodality_remote.py", "README.md"} <= set(commits[-1][2])
    assert "mine" in ModelCard(commits[-1][2]["README.md"].decode()).data.tags


def test_an_interrupted_upload_commits_nothing_and_can_be_repeated(hub, saved, unchecked, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.broken_uploads = 1000
    with pytest.raises(OSError):
        publish(saved[0], "org/anymal")
    assert len(hub.repositories["org/anymal"].commits) == 1
    hub.broken_uploads = 1  # the client tries again
    publish(saved[0], "org/anymal")
    assert len(hub.repositories["org/anymal"].commits) == 2


def test_content_with_another_hash_is_not_committed(hub, saved, unchecked):
    hub.garbled_uploads = 1000
    with pytest.raises(OSError, match="another hash"):
        publish(saved[0], "org/anymal")
    assert len(hub.repositories["org/anymal"].commits) == 1 and not hub.objects


def test_a_download_that_breaks_off_is_taken_up_again(hub, saved, unchecked):
    publish(saved[0], "org/anymal")
    hub.broken_downloads = 2
    pulled = AutoModelForCausalLM.from_pretrained("org/anymal")
    assert torch.equal(logits(pulled, saved[2]), logits(saved[1], saved[2])) and not hub.broken_downloads


def test_a_missing_revision_is_named(hub, saved, unchecked):
    publish(saved[0], "org/anymal")
    with pytest.raises(OSError, match="nonesuch"):
        AutoModelForCausalLM.from_pretrained("org/anymal", revision="nonesuch")
    with pytest.raises(RevisionNotFoundError):
        HfApi().model_info("org/anymal", revision="nonesuch")
    first = hub.repositories["org/anymal"].commits[-1][0]
    assert AutoModelForCausalLM.from_pretrained("org/anymal", revision=first).config.modalities


def test_a_private_repository_needs_a_token(hub, saved, unchecked, monkeypatch):
    publish(saved[0], "org/secret", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="org/secret"):
        AutoModelForCausalLM.from_pretrained("org/secret")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("org/secret")
    assert AutoModelForCausalLM.from_pretrained("org/secret", token="hf_test").config.modalities


def test_pushing_needs_a_token_that_may(hub, saved, unchecked, monkeypatch):
    with pytest.raises(OSError, match="403"):
        publish(saved[0], "others/anymal")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="401"):
        publish(saved[0], "org/anymal")
    assert not hub.repositories


PULL = """
import json, sys
from transformers import AutoModelForCausalLM, AutoProcessor, AutoConfig

assert "transformers_anymodality" not in sys.modules
processor = AutoProcessor.from_pretrained("org/anymal", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("org/anymal", trust_remote_code=True)
model.save_pretrained(sys.argv[1])
processor.save_pretrained(sys.argv[1])
from safetensors.torch import load_file
logits = model(**load_file(sys.argv[2])).logits
print(json.dumps(logits[0, -1, :8].tolist()))
"""


@pytest.mark.slow
def test_the_whole_way_in_processes_of_their_own(hub, saved, tmp_path):
    """`anymodality push` (with its check), a pull by remote code and one without network, and what it saved again."""
    from safetensors.torch import save_file

    folder, model, processor = saved
    environment = {**os.environ, **hub.environment(tmp_path / "other")}
    command = [sys.executable, "-m", "anymodality.cli", "push", str(folder), "org/anymal", "--json"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout)["difference"] < 1e-5 and len(hub.repositories["org/anymal"].commits) == 2
    inputs = dummy_inputs(processor)
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "inputs.safetensors")
    expected = model(**inputs).logits[0, -1, :8].tolist()
    for offline, target in (("0", "first"), ("1", "second")):
        words = [sys.executable, "-c", PULL, str(tmp_path / target), str(tmp_path / "inputs.safetensors")]
        run = subprocess.run(
            words, env={**environment, "HF_HUB_OFFLINE": offline}, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert json.loads(run.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-5)
    saved_again = json.loads((tmp_path / "first" / "config.json").read_text())
    assert saved_again["auto_map"]["AutoConfig"] == "anymodality_remote.AnyModalityConfig"
    assert (tmp_path / "first" / "anymodality_remote.py").exists()
