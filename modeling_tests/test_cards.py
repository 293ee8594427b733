"""Model cards: what they say, that it holds, and that those of the published systems do not rot."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_cards import write as hub_cards
from huggingface_hub import CardData, ModelCard
from PIL import Image

from anymodality import cli
from modeling_tests import tiny, tiny_systems
from transformers_anymodality import lora_config, set_trainable
from transformers_anymodality.hub import Licences, make_card, strictest, write_card
from transformers_anymodality.hub.card import _languages, licence_of
from transformers_anymodality.hub.history import sparkline
from transformers_anymodality.hub.inspect import inspect_model
from transformers_anymodality.utils.hub import is_hub_id


MODALITIES = ("image", "audio", "imu", "depth")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards") / "anymal"
    model, processor = tiny.composite(settings=tiny.modalities(*MODALITIES))
    set_trainable(model, "image_aligner", verbose=False)
    model.config.text_config._name_or_path = "org/llama"
    model.config.image_config._name_or_path = "org/clip"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    state = {
        "global_step": 20,
        "epoch": 1.0,
        "train_batch_size": 4,
        "log_history": [{"step": i, "loss": 3 - i / 10, "learning_rate": 1e-3} for i in range(1, 21)]
        + [{"step": 20, "eval_loss": 1.25}],
    }
    (folder / "trainer_state.json").write_text(json.dumps(state))
    result = {"task": "vqa", "data": "vqa.jsonl sha256:0", "samples": 9, "metrics": {"vqa_accuracy": 0.5}}
    (folder / "results.json").write_text(json.dumps({"model": "anymal", "tasks": {"vqa": result}}))
    return folder


def test_metadata(saved):
    licences = Licences(parts={"language_model": "llama2", "image_tower": "mit"})
    data = make_card(saved, name="org/anymal", licences=licences, languages=["en"], datasets=["org/chats"]).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "any-to-any", "llama2")
    assert data.base_model == ["org/llama", "org/clip"] and data.base_model_relation == "finetune"
    assert data.language == ["en"] and data.datasets == ["org/chats"]
    assert {"anymodality", *MODALITIES} == set(data.tags)
    (result,) = data.eval_results
    assert (result.task_type, result.metric_type, result.metric_value) == ("vqa", "vqa_accuracy", 0.5)
    index = ModelCard(str(make_card(saved, name="org/anymal"))).data.to_dict()["model-index"]
    assert index[0]["name"] == "anymal" and index[0]["results"][0]["dataset"]["type"] == "vqa.jsonl"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"datasets": ["not an id"]}, "datasets: 'not an id' is not an id"),
        ({"languages": ["english"]}, "language: 'english' is not an ISO 639 code"),
        ({"licences": Licences("Apache 2")}, "license: 'Apache 2' is not a name"),
    ],
)
def test_metadata_that_the_hub_would_refuse(saved, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_card(saved, **settings)


def test_text(saved):
    text = str(make_card(saved, recipe="learning_rate: 1.0e-3\n", limits=["Photographs only."]))
    assert "| `image_aligner` | perceiver_resampler | yes | 8,008 | made here |  |" in text
    assert "| `imu_aligner` | linear | no, frozen |" in text
    assert "[org/clip](https://huggingface.co/org/clip) | unknown |" in text
    assert "| image | `<image>` | 3 | `image_tower` | `image_aligner` |" in text
    assert "| highest learning rate | 0.001 |" in text and "| 20 | 1.0000 | 1.2500 |" in text
    assert "Loss: `█" in text and "| vqa, 9 samples | vqa_accuracy | 0.5 |" in text
    assert "- Photographs only." in text and "Never trained: `audio_aligner`, `depth_aligner`, `imu_aligner`." in text
    assert "learning_rate: 1.0e-3" in text and "\n\n\n" not in text


def test_the_snippet_runs(saved, tmp_path):
    """As it stands in the card, in a folder with the media that it names."""
    (snippet,) = re.findall(r"```python\n(.*?)```", str(make_card(saved)), re.DOTALL)
    (tmp_path / "anymal").symlink_to(saved)
    Image.fromarray(tiny.medium("image")).save(tmp_path / "photo.jpg")
    Image.fromarray((tiny.medium("depth") * 1000).astype(np.uint16)).save(tmp_path / "depth.png")
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "speech.wav", tiny.medium("audio"), 16000)
    rows = ["time,ax,ay,az,gx,gy,gz", *(f"{i / 32},{','.join(['0.5'] * 6)}" for i in range(64))]
    (tmp_path / "walk.csv").write_text("\n".join(rows))
    run = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]


def test_what_is_not_known_is_not_made_up(tmp_path):
    model, processor = tiny.composite(settings=tiny.modalities("imu"))
    model.save_pretrained(tmp_path / "fresh")
    processor.save_pretrained(tmp_path / "fresh")
    card = write_card(tmp_path / "fresh")
    assert card.data.license == "unknown" and card.data.base_model is None and card.data.eval_results is None
    assert "It was not evaluated" in card.text and "does not say what was trained" in card.text
    assert "## Training" not in card.text and "## Evaluation" not in card.text
    assert (tmp_path / "fresh" / "README.md").read_text() == f"{card}\n"


def test_merged_lora_counts_as_training(tmp_path):
    peft = pytest.importorskip("peft")
    model, _ = tiny.composite(settings=tiny.modalities("imu"))
    tuned = peft.get_peft_model(model, lora_config(model, r=2))
    assert tuned.merge_and_unload().config.trained == ["imu_aligner", "language_model"]
    fresh, _ = tiny.composite(settings=tiny.modalities("imu"))
    assert fresh.config.trained is None


def test_the_licence_of_a_part_is_in_its_folder(tmp_path):
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nlanguage: de\n---\n")
    model, _ = tiny.composite(settings=tiny.modalities("imu"))
    model.config.text_config._name_or_path = str(tmp_path / "lm")
    card = make_card(None, name="x", inspection=inspect_model(model))
    assert card.data.license == "cc-by-nc-4.0" and card.data.language == ["de"]
    assert str(tmp_path) not in str(card)


def test_strictest():
    assert strictest(["mit", "apache-2.0", "llama2"]) == "llama2"
    assert strictest(["cc-by-nc-4.0", "other", "gpl-3.0"]) == "cc-by-nc-4.0"
    assert strictest(["mit", "somebody-elses"]) == "somebody-elses"
    assert strictest(["mit", "unknown"]) == strictest([]) == "unknown"


def test_hub_ids(tmp_path):
    assert is_hub_id("org/name") and is_hub_id("gpt2")
    assert not any(map(is_hub_id, (str(tmp_path), "./name", "/gone/away", "a/b/c", "", None)))


def test_sparkline():
    assert sparkline([1.0]) == "" and sparkline([8.0, 1.0]) == "█▁" and len(sparkline(list(range(1000)))) == 48


def test_the_command(saved, tmp_path, capsys):
    place = saved / "README.md"
    command = ["card", str(saved), "--licence", "mit", "--licence", "image_tower=llama2", "--language", "en"]
    assert cli.main([*command, "--stdout"]) == 0 and not place.exists()
    assert "license: mit" in capsys.readouterr().out
    assert cli.main(command) == 0 and ModelCard.load(place).data.license == "mit"
    assert capsys.readouterr().out == f"{place}: written; licence mit.\n"
    whole = ["card", str(saved), "--force", "--licence", "image_tower=mit", "--licence", "language_model=unknown"]
    assert cli.main(whole) == 0 and "licence unknown (the card's last section says whose)." in capsys.readouterr().out
    note = "The licence of the whole is unknown, because that of a part is. Ask who published `language_model`"
    assert note in place.read_text()
    assert cli.main(command) == 1 and "--force replaces it" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("[]")
    assert cli.main([*command, "--force", "--results", str(tmp_path / "other.json")]) == 1
    assert "is not what `anymodality evaluate` writes" in capsys.readouterr().err
    place.unlink()
    assert cli.main(["card", str(tmp_path)]) == 1


@pytest.mark.parametrize("name", list(hub_cards.SYSTEMS))
def test_cards_of_systems_are_up_to_date(name):
    """Else: `python hub_cards/write.py`."""
    assert hub_cards.path(name).read_text() == f"{hub_cards.system_card(name)}\n"
    assert (Path(hub_cards.HERE) / "template.md").read_text().startswith("---\n{{ card_data }}")


@pytest.mark.parametrize("name", list(hub_cards.SYSTEMS))
def test_cards_of_systems_name_the_parts_that_they_have(name):
    """Else: `python hub_cards/write.py --measure`."""
    found = json.loads(hub_cards.PARTS.read_text())[name]
    settings = {"release": "llama"} if name == "mplug_owl" else {}
    own = inspect_model(*tiny_systems.system(name, **settings)).to_dict()
    assert [part["name"] for part in found["parts"]] == [part["name"] for part in own["parts"]]
    same = ("name", "tower", "aligner", "inputs")
    assert [[m[key] for key in same] for m in found["modalities"]] == [
        [m[key] for key in same] for m in own["modalities"]
    ]


def test_languages_of_others_cards_are_what_the_hub_knows():
    assert _languages(CardData(language=["en", False, "pt-br", 3])) == ["en", "no"]
    assert _languages(CardData(language="de")) == ["de"] and _languages(None) == []
    assert licence_of(CardData(license="MIT")) == "mit"
