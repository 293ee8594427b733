"""Composing without weights: the plan is what composing gives, at any size, in little memory; and what composing runs."""

import copy
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from anymodality.cli import main
from modeling_tests import tiny
from modeling_tests.tiny_systems import TINY, byte_tokenizer
from transformers_anymodality import AnyModalityForCausalLM, compose
from transformers_anymodality.compose.trial import try_language_model
from transformers_anymodality.systems import SYSTEMS


META = torch.device("meta")
IMAGE = {"processor": tiny.image_processor(), "aligner": "linear"}


# --- how often parts run -------------------------------------------------------------------------------------------


def forwards(language, settings, **loaded) -> dict[str, int]:
    """How often composing runs each of these modules."""
    count = Counter()
    for name, module in {"language_model": language, **loaded}.items():
        module.register_forward_pre_hook(lambda *_, name=name: count.update([name]))
    compose(language, settings, tokenizer=tiny.tokenizer())
    return dict(count)


def test_each_question_is_asked_once():
    """Of an item, of two, and without the pooler; borrowers that read as the lender does ask nothing."""
    tower = CLIPVisionModel(tiny.vision_config())
    settings = {"image": {"tower": tower, **IMAGE}, "depth": {"tower": "image"}, "thermal": {"tower": "image"}}
    assert forwards(tiny.language_model(), settings, tower=tower) == {"language_model": 2, "tower": 3}


def test_borrowers_that_read_otherwise_are_tried_themselves():
    tower = CLIPVisionModel(tiny.vision_config())
    settings = {"image": {"tower": tower, **IMAGE}, "video": {"tower": "image", "num_frames": 2}}
    assert forwards(tiny.language_model(), settings, tower=tower)["tower"] == 6


def test_where_all_is_read_nothing_is_tried_without():
    tower = SiglipVisionModel(
        SiglipVisionConfig(**tiny.vision_config().to_dict() | {"vision_use_head": False, "model_type": "siglip"})
    )
    assert forwards(tiny.language_model(), {"image": {"tower": tower, **IMAGE}}, tower=tower)["tower"] == 2


def test_towers_whose_length_varies_run_on_a_longer_item():
    tower = Wav2Vec2Model(tiny.wav2vec2_config())
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    settings = {"audio": {"tower": tower, "processor": extractor, "aligner": "linear"}}
    model = forwards(tiny.language_model(), settings, tower=tower)
    # Both twice, for which axis is the length; a second beside the short one; both in one batch. It has nothing that could
    # be left out but a parameter.
    assert model["tower"] == 6


def test_language_models_that_read_ids_run_once_more():
    settings = {"image": {"tower": tiny.vision_config(), **IMAGE}}
    assert forwards(tiny.language_model("gemma3n_text"), settings)["language_model"] == 3


# --- a plan is what composing gives ---------------------------------------------------------------------------------


def shapes(model) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def check_plan(plan, real) -> None:
    """Model and processor of a plan are those of composing, but for the weights."""
    (planned, planned_processor), (model, processor) = plan, real
    assert type(planned) is AnyModalityForCausalLM and not planned.training
    assert all(tensor.is_meta for tensor in planned.state_dict().values())
    assert planned.config.modalities == model.config.modalities and shapes(planned) == shapes(model)
    assert planned.config.reads_input_ids == model.config.reads_input_ids
    assert planned_processor.to_dict() == processor.to_dict()
    assert planned_processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_are_planned_as_they_are_composed(name):
    def composed():
        tokenizer = byte_tokenizer()
        language = CONFIG_MAPPING["llama"].from_dict(tiny.language_model(vocab_size=len(tokenizer)).config.to_dict())
        return compose(**SYSTEMS[name](**TINY[name](language, tokenizer)))

    with META:
        plan = composed()
    check_plan(plan, composed())


def test_models_without_weights_make_a_plan_too():
    with META:
        language = AutoModelForCausalLM.from_config(tiny.language_model().config)
        tower = CLIPVisionModel(tiny.vision_config())
    settings = {"image": {"tower": tower, **IMAGE, "num_tokens": 2}}
    plan = compose(language, settings, tokenizer=tiny.tokenizer())
    assert plan[0].language_model is language and plan[0].image_tower is tower
    settings["image"]["tower"] = tiny.vision_config()
    check_plan(plan, compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer()))


def test_of_folders_no_weights_are_read(tmp_path):
    tiny.language_model().save_pretrained(tmp_path / "lm")
    tiny.tokenizer().save_pretrained(tmp_path / "lm")
    CLIPVisionModel(tiny.vision_config()).save_pretrained(tmp_path / "tower")
    tiny.image_processor().save_pretrained(tmp_path / "tower")
    settings = {"image": {"tower": tmp_path / "tower", "select_layer": -2}}
    for dtype in (None, "bfloat16"):
        real = compose(tmp_path / "lm", settings, dtype=dtype)
        for file in tmp_path.rglob("*.safetensors"):
            file.rename(file.with_suffix(".away"))
        with META:
            plan = compose(tmp_path / "lm", settings, dtype=dtype)
        for file in tmp_path.rglob("*.away"):
            file.rename(file.with_suffix(".safetensors"))
        check_plan(plan, real)
        assert {n: t.dtype for n, t in plan[0].state_dict().items()} == {
            n: t.dtype for n, t in real[0].state_dict().items()
        }
        assert plan[0].part_sources == real[0].part_sources


def test_planning_leaves_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with META:
        compose(
            copy.deepcopy(tiny.language_model().config),
            {"image": {"tower": tiny.vision_config(), **IMAGE}},
            tokenizer=tiny.tokenizer(),
        )
    assert torch.equal(torch.rand(3), expected)


# --- what composing refuses, a plan refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, message",
    [
        ({"tower": tiny.imu_config()}, "The tower of 'image'"),
        ({"tower": CLIPVisionConfig(**tiny.vision_config().to_dict() | {"image_size": 24})}, "cannot read what its"),
        (
            {"tower": CONFIG_MAPPING["vit_mae"](hidden_size=24, num_hidden_layers=1, image_size=32, patch_size=8)},
            "random",
        ),
        ({"select_layer": 9}, "outside the tower's 3 layers"),
        ({"aligner": {"type": "mlp", "pool": "pixel_shuffle"}}, "pixel_shuffle.*17.*class token"),
        ({"num_tokens": 0}, "num_tokens of 'image' is 0"),
        ({"token": "yes"}, "'yes'.*ordinary"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_refused(image, message):
    with META, pytest.raises(ValueError, match=message):
        settings = {"image": {"tower": tiny.vision_config(), **IMAGE, **image}}
        compose(copy.deepcopy(tiny.language_model().config), settings, tokenizer=tiny.tokenizer())


def test_a_language_model_that_takes_no_embeddings_is_refused():
    with META, pytest.raises(ValueError, match="cannot read media"):
        settings = {"image": {"tower": tiny.vision_config(), **IMAGE}}
        compose(tiny.tiny_causal_lm("cpmant"), settings, tokenizer=tiny.tokenizer())


# --- published sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model_type, reads_ids",
    [("llama", False), ("gpt2", False), ("qwen3_next", False), ("gemma3n_text", True), ("mixtral", False)],
)
def test_small_copies_of_large_language_models_answer(model_type, reads_ids):
    """Of their default sizes, up to eighty billion parameters."""
    with META:
        language = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type]())
    assert try_language_model(language) is reads_ids


LLAMA_70B = dict(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64)
LLAMA_13B = dict(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40)
# System -> its language model, where it is another than the preset's; and the parameters that it has by itself.
LARGE = {
    "anymal": (LlamaConfig(**LLAMA_70B, num_key_value_heads=8), 68_976_648_192),
    "pandagpt": (LlamaConfig(**LLAMA_13B, vocab_size=32001), 13_015_874_560),
}
# Peak memory above the import, in kilobytes.
PLAN = """
import json, resource, sys
from modeling_tests.tiny_systems import byte_tokenizer
from transformers import LlamaConfig
from transformers_anymodality import compose
from transformers_anymodality.hub.inspect import inspect_model
from transformers_anymodality.systems import SYSTEMS
import torch

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
name, language = sys.argv[1], json.loads(sys.argv[2])
with torch.device("meta"):
    preset = SYSTEMS[name](language and LlamaConfig(**language), byte_tokenizer())
    found = inspect_model(*compose(**preset))
print(json.dumps({**found.to_dict(), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before}))
"""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "mplug_owl" else pytest.mark.slow) for name in SYSTEMS]
)
def test_systems_at_their_published_size(name):
    language, parameters = LARGE.get(name, (None, None))
    words = [sys.executable, "-c", PLAN, name, json.dumps(language and language.to_diff_dict())]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1])
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.strip().splitlines()[-1])
    counted = {part["name"]: part["parameters"] for part in found["parts"]}
    known = json.loads((Path(__file__).parents[1] / "hub_cards" / "parts.json").read_text())[name]
    expected = {part["name"]: part["parameters"] for part in known["parts"]}
    if parameters is not None:
        assert counted["language_model"] == parameters
    assert {n: count for n, count in counted.items() if n.endswith("_tower")} == {
        n: count for n, count in expected.items() if n.endswith("_tower")
    }
    assert counted.keys() == expected.keys()
    assert [one["tokens"] for one in found["modalities"]] == [one["tokens"] for one in known["modalities"]]
    assert found["peak"] < 1_500_000


def test_four_bits_are_planned_as_they_are_loaded(tmp_path, capsys):
    """To the byte, but for a note of some bytes that bitsandbytes writes beside each weight."""
    pytest.importorskip("bitsandbytes")
    language = tiny.language_model()
    language.to(torch.bfloat16).save_pretrained(tmp_path / "lm")
    tiny.tokenizer().save_pretrained(tmp_path / "lm")
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "lm", quantization_config=four_bits, dtype=torch.bfloat16)
    tensors = {name: tensor for name, tensor in loaded.state_dict().items() if "quant_state" not in name}
    tied = loaded.all_tied_weights_keys
    CLIPVisionModel(tiny.vision_config()).save_pretrained(tmp_path / "tower")
    tiny.image_processor().save_pretrained(tmp_path / "tower")
    words = [
        "compose",
        "--language-model",
        str(tmp_path / "lm"),
        "--modality",
        f"image={tmp_path / 'tower'}",
        "--plan",
    ]
    assert main([*words, "--dtype", "bfloat16", "--load-in-4bit", "--json"]) in (0, None)
    planned = {part["name"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    own = planned["language_model"]
    grown = (
        (len(tiny.tokenizer()) + 1 - loaded.config.vocab_size) * loaded.config.hidden_size * 2
    )  # the placeholder's row
    grown *= 1 if tied else 2
    assert own["bytes"] == sum(tensor.nbytes for name, tensor in tensors.items() if name not in tied) + max(grown, 0)
    assert own["parameters"] > language.num_parameters(exclude_embeddings=True) and set(own["memory"]) == {
        "nf4",
        "bfloat16",
    }
    assert set(planned["image_tower"]["memory"]) == {"bfloat16"}
    assert main([*words, "--load-in-4bit"]) in (0, None)
    assert re.search(
        r"language_model +llama +[\d,]+ +[\d.]+ [kM]B +b?float(32|16) [\d.]+ [kM]B, nf4 [\d.]+ [kM]B",
        capsys.readouterr().out,
    )
    assert main([*words[:-1], "--output", str(tmp_path / "no"), "--load-in-4bit"]) not in (0, None)
