"""Saving and loading: full, light, headless, quantised; and what must be refused."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CLIPVisionModel,
)

from modeling_tests import tiny
from modeling_tests.checks import last_logits
from transformers_anymodality import AnyModalityConfig, AnyModalityForCausalLM, AnyModalityModel, compose


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("composite")
    model, processor = tiny.composite()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


@pytest.fixture
def broken(saved, tmp_path):
    """A copy of the checkpoint to break."""
    for file in saved[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_every_auto_class_loads_it(saved):
    folder, _, processor = saved
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert type(auto_class.from_pretrained(folder)) is AnyModalityForCausalLM
    assert type(AutoModel.from_pretrained(folder)) is AnyModalityModel
    assert type(AutoConfig.from_pretrained(folder)) is AnyModalityConfig
    assert AutoImageProcessor.from_pretrained(folder).to_dict() == processor.image_processor.to_dict()
    assert AutoFeatureExtractor.from_pretrained(folder).to_dict() == processor.feature_extractor.to_dict()
    assert AutoTokenizer.from_pretrained(folder).image_token == "<image>"


def test_it_loads_in_a_new_process(saved):
    folder, model, processor = saved
    inputs = tiny.inputs(processor, *tiny.CHATS)
    save_file({k: v.contiguous() for k, v in inputs.items()}, folder / "inputs.st")
    code = (
        "import sys, torch, transformers_anymodality; from safetensors.torch import load_file\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype='auto', device_map='auto')\n"
        "print(model.generate(**load_file(sys.argv[1] + '/inputs.st'), max_new_tokens=5, do_sample=False).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    expected = model.generate(**inputs, max_new_tokens=5, do_sample=False).tolist()
    assert json.loads(out.stdout.strip().splitlines()[-1]) == expected


def test_headless_gives_the_causal_models_hidden_states(saved, tmp_path):
    folder, model, processor = saved
    inputs = tiny.inputs(processor, *tiny.CHATS)
    headless = AutoModel.from_pretrained(folder)
    expected = model(**inputs, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(headless(**inputs).last_hidden_state, expected)
    headless.save_pretrained(tmp_path)
    assert torch.equal(
        AnyModalityModel.from_pretrained(tmp_path)(**inputs).last_hidden_state, headless(**inputs).last_hidden_state
    )


def test_names_of_children_and_weights_are_kept():
    """Public API: adapters, quantisation lists and other people's scripts name these."""
    model, _ = tiny.composite(settings=tiny.modalities("image", "video", "imu"))
    assert model.part_names == [
        "image_tower",
        "image_aligner",
        "imu_tower",
        "imu_aligner",
        "video_aligner",
        "language_model",
    ]
    names = set(model.state_dict())
    assert {
        "image_aligner.latents",
        "image_aligner.layers.0.attention.q_proj.weight",
        "image_aligner.layers.0.attention.norm_media.weight",
        "image_aligner.layers.0.up_proj.weight",
        "image_aligner.norm.weight",
        "image_aligner.projection.weight",
        "video_aligner.frame_embeddings",
        "imu_aligner.projection.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    } <= names
    assert {name.split(".")[0] for name in names} == set(model.part_names)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda t: t.pop("image_aligner.latents"), "1 missing from the checkpoint: image_aligner.latents"),
        (lambda t: t.update(stray=torch.ones(2)), "1 in the checkpoint, but not in the model: stray"),
        (
            lambda t: t.update({"image_aligner.latents": torch.ones(5, 24)}),
            "1 of another shape: image_aligner.latents",
        ),
    ],
)
@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, AutoModel])
def test_weights_that_do_not_fit_are_an_error(broken, damage, message, auto_class):
    tensors = load_file(broken / "model.safetensors")
    damage(tensors)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError), match=message.split(":")[-1].strip()):
        auto_class.from_pretrained(broken)


def test_only_a_checkpoint_of_another_class_gets_a_new_head(saved, tmp_path):
    causal = AutoModelForSequenceClassification.from_pretrained(saved[0], num_labels=1)
    assert causal.score.weight.std() > 0
    causal.save_pretrained(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).score.weight.equal(causal.score.weight)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="1 missing from the checkpoint: score.weight"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_pickles_are_refused(broken):
    tensors = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(tensors, broken / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        AutoModelForCausalLM.from_pretrained(broken)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda c: c["image_aligner_config"].update(model_type="perceiver_resampel_aligner"),
            "Did you mean 'perceiver_resampler_aligner'",
        ),
        (lambda c: c["modalities"].update(smell={"token_id": 3}), "smell"),
        (lambda c: c["modalities"].update(text={"token_id": 3}), "reserved"),
        (lambda c: c["modalities"]["image"].update(colour="red"), "Unknown keys"),
        (lambda c: c["modalities"]["depth"].update(tower="eye"), "borrows the tower of 'eye'"),
    ],
)
def test_configs_that_make_no_sense_are_an_error(broken, change, message):
    config = json.loads((broken / "config.json").read_text())
    change(config)
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(broken)


def test_config_round_trips_and_sorts(saved, tmp_path):
    _, model, _ = saved
    config = AnyModalityConfig.from_dict(json.loads(model.config.to_json_string(use_diff=False)))
    assert config.to_dict() == model.config.to_dict()
    assert list(config.modalities) == sorted(config.modalities)
    assert config.image_token_id == config.modalities["image"].token_id


# --- light checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def hub(tmp_path_factory, request):
    """A language model and a tower, each in a folder as if on the Hub."""
    root = tmp_path_factory.mktemp("hub")
    tiny.language_model(request.param).save_pretrained(root / "lm")
    tiny.tokenizer().save_pretrained(root / "lm")
    tower = CLIPVisionModel(tiny.vision_config())
    tiny.spread(tower)
    tower.save_pretrained(root / "tower")
    tiny.image_processor().save_pretrained(root / "tower")
    return root


def compose_from(hub, **settings):
    image = {"tower": str(hub / "tower"), "aligner": tiny.RESAMPLER, "num_tokens": 3, **settings}
    return compose(str(hub / "lm"), {"image": image})


def size(folder) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize("trained", [(), ("language_model",)])
def test_light_equals_full(hub, tmp_path, trained):
    model, processor = compose_from(hub, select_layer=-2)
    tiny.spread(model.image_aligner)
    for part in trained:
        tiny.spread(getattr(model, part).get_output_embeddings())
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "light", light=True)
    inputs = tiny.inputs(processor, tiny.CHATS[0])
    light = AutoModelForCausalLM.from_pretrained(tmp_path / "light")
    full = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    assert size(tmp_path / "light") < size(tmp_path / "full") / 2
    assert torch.equal(last_logits(light, inputs), last_logits(full, inputs))
    assert set(load_file(tmp_path / "light" / "model.safetensors")) & set(model.state_dict())
    light.save_pretrained(tmp_path / "again", light=True)
    assert size(tmp_path / "again") == size(tmp_path / "light")
    light.save_pretrained(tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert torch.equal(last_logits(whole, inputs), last_logits(full, inputs))


def test_light_checkpoints_notice_what_changed_or_is_gone(hub, tmp_path):
    model, _ = compose_from(hub)
    model.save_pretrained(tmp_path / "light", light=True)
    file = hub / "tower" / "model.safetensors"
    good = file.read_bytes()
    try:
        tensors = load_file(file)
        next(iter(tensors.values()))[0] += 1
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match="image_tower.*has changed since"):
            AutoModelForCausalLM.from_pretrained(tmp_path / "light")
        file.unlink()
        with pytest.raises(OSError, match="image_tower.*could not be loaded"):
            AutoModelForCausalLM.from_pretrained(tmp_path / "light")
    finally:
        file.write_bytes(good)


def test_nothing_to_refer_to_is_an_error(saved, tmp_path):
    with pytest.raises(ValueError, match="no part of this model came from the Hub"):
        saved[1].save_pretrained(tmp_path, light=True)


# --- quantisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bitsandbytes-4", "bitsandbytes-8", "torchao"])
def test_quantised_language_models_leave_towers_and_aligners_alone(saved, method):
    folder, model, processor = saved
    if method == "torchao":
        pytest.importorskip("torchao")
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        quantization = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        from transformers import BitsAndBytesConfig

        quantization = BitsAndBytesConfig(load_in_4bit=method.endswith("4"), load_in_8bit=method.endswith("8"))
    quantised = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization)
    for name, module in quantised.named_modules():
        if isinstance(module, torch.nn.Linear):
            plain = type(module) is torch.nn.Linear and type(module.weight.data) in (torch.Tensor, torch.nn.Parameter)
            assert plain == (not name.startswith("language_model.") or name.endswith("lm_head")), name
    inputs = tiny.inputs(processor, *tiny.CHATS)
    difference = last_logits(quantised, inputs) - last_logits(model, inputs)
    assert 0 < difference.norm() < last_logits(model, inputs).norm()


def test_a_quantised_headless_checkpoint_is_read_by_the_causal_model(tmp_path):
    """Its names are the causal model's, as those of any headless checkpoint; the tied head needs no weights of its own."""
    from transformers import BitsAndBytesConfig

    model, _ = tiny.composite("gpt2", tiny.modalities("image"))
    model.save_pretrained(tmp_path / "plain")
    quantization = BitsAndBytesConfig(load_in_8bit=True)
    headless = AutoModel.from_pretrained(tmp_path / "plain", quantization_config=quantization)
    headless.save_pretrained(tmp_path / "headless")
    causal = AutoModelForCausalLM.from_pretrained(tmp_path / "headless")
    weights = causal.language_model.transformer.state_dict()
    assert weights and all(
        torch.equal(weights[name], value) for name, value in headless.language_model.state_dict().items()
    )
