"""Configs that make no sense: refused with one kind of error, which names the file and the key."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoProcessor

from modeling_tests import saved_copy, tiny
from modeling_tests.saved_copy import edit
from transformers_anymodality.utils.checked import ConfigError, check_flags, check_numbers


copy = saved_copy.copy
saved = saved_copy.saved


def rows(name: str, **values):
    return lambda config: config["modalities"][name].update(values)


def part(name: str, **values):
    return lambda config: config[name].update(values)


MODEL = {
    "`modalities.image.token_id` is '5'": rows("image", token_id="5"),
    "`modalities.image.token_id` is -1": rows("image", token_id=-1),
    "`modalities.image.token_id` is True": rows("image", token_id=True),
    "`modalities.image.token_id` is 1.5": rows("image", token_id=1.5),
    "is already the placeholder of": lambda c: c["modalities"]["image"].update(
        token_id=c["modalities"]["audio"]["token_id"]
    ),
    "beyond the": rows("image", token_id=10**6),
    "`modalities.image.inputs`": rows("image", inputs=[]),
    "`modalities.image.input_shape`": rows("image", input_shape=[3, "x"]),
    "`modalities.image.input_dtype`": rows("image", input_dtype="os"),
    "`modalities.image.select_feature`": rows("image", select_feature="others"),
    "`modalities.image` is 7": lambda config: config["modalities"].update(image=7),
    "`config.modalities`": lambda config: config.update(modalities=[]),
    "`config.references`": lambda config: config.update(references=[1]),
    "`config.trained`": lambda config: config.update(trained="all"),
    "borrows the tower of 'imu', but gives it": rows("video", tower="imu"),
    "`image_config` must be a config": lambda config: config.update(image_config=3),
    "`text_config` has an unknown model type": part("text_config", model_type=["llama"]),
    "`image_aligner_config`.*num_tokens` is -1": part("image_aligner_config", num_tokens=-1),
    "`image_aligner_config`.*num_tokens` is 1000000000": part("image_aligner_config", num_tokens=10**9),
    "`image_aligner_config`.*num_heads` is '8'": part("image_aligner_config", num_heads="8"),
    "`image_aligner_config.layer_norm_eps` is NaN": part("image_aligner_config", layer_norm_eps=float("nan")),
    "`image_config`": part("image_config", hidden_size="x"),
    "`text_config`": part("text_config", num_attention_heads=0),
    "`text_config.num_hidden_layers` is 1000000000": part("text_config", num_hidden_layers=10**9),
    "`text_config.rms_norm_eps` is NaN": part("text_config", rms_norm_eps=float("nan")),
    "`image_aligner_config.depth` is 1000000000": part("image_aligner_config", depth=10**9),
    "`text_config.rope_parameters.rope_theta` is True": part("text_config", rope_parameters={"rope_theta": True}),
    "`imu_config.num_attention_heads` is -1; it must not": part("imu_config", num_attention_heads=-1),
    "`text_config.intermediate_size` is -5; it must not": part("text_config", intermediate_size=-5),
    "`rope_parameters` in config.json give": part("text_config", rope_parameters={"rope_theta": -1}),
    "`text_config.output_hidden_states` is 'image'": part("text_config", output_hidden_states="image"),
    "`image_config.return_dict` is {}": part("image_config", return_dict={}),
    "`audio_config.inner.depths` is": part("audio_config", inner={"depths": [2, 10**9]}),
}


@pytest.mark.parametrize("message", MODEL)
def test_a_config_that_makes_no_sense_is_refused_by_its_key(copy, message):
    edit(copy / "config.json", MODEL[message])
    with pytest.raises(ConfigError, match=f"{copy}.*{message}"):
        AutoModelForCausalLM.from_pretrained(copy)


# Key of a modality -> a value by which its tower cannot run, or gives features of another size.
LAYOUT = {
    "imu.channels_first": True,
    "imu.per_frame": True,
    "imu.inputs": {"imu_values": "values"},
    "image.channels_first": True,
    "image.per_frame": True,
    "image.side_by_side": True,
    "imu.select_feature": "pooled",
    "video.per_frame": False,
    "audio.channels_first": True,
}


@pytest.mark.parametrize("key", LAYOUT)
def test_a_config_that_says_otherwise_than_a_tower_is_made_is_refused_by_its_key(copy, saved, key):
    name, _, field = key.partition(".")
    edit(copy / "config.json", rows(name, **{field: LAYOUT[key]}))
    model = AutoModelForCausalLM.from_pretrained(copy)
    with pytest.raises(ConfigError, match=f"config.json of {copy}: `modalities.{key}` is"):
        model.get_modality_features(name, **media(saved, name))


def media(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Model inputs of two items."""
    processor = AutoProcessor.from_pretrained(folder)
    return processor.process_media({name: [tiny.medium(name, seed) for seed in (0, 1)]})[0]


def test_an_input_that_a_tower_cannot_read_is_not_the_fault_of_the_config(saved):
    model = AutoModelForCausalLM.from_pretrained(saved)
    with pytest.raises(ValueError) as error:
        model.get_modality_features("image", torch.rand(2, 3, 7, 7))
    assert not isinstance(error.value, ConfigError)


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_what_takes_more_memory_than_there_is_does_not_run_again(saved, monkeypatch, kind):
    model, runs = AutoModelForCausalLM.from_pretrained(saved), []

    def full(*_, **__):
        runs.append(1)
        raise kind

    monkeypatch.setattr(model.image_tower, "forward", full)
    with pytest.raises(kind):
        model.get_modality_features("image", **media(saved, "image"))
    assert len(runs) == 1


PROCESSOR = {
    "'what' of 'image' is an ordinary word": rows("image", token="what"),
    "'<pad>' of 'image' has another meaning": rows("image", token="<pad>"),
    "is also that of '(audio|image)'": rows("image", token="<audio>"),
    "'' of 'image' is not in the tokenizer": rows("image", token=""),
    "`modalities.image.token` is 5": rows("image", token=5),
    "`modalities.image.num_tokens` is -1": rows("image", num_tokens=-1),
    "`modalities.image.num_tokens` is 10000000": rows("image", num_tokens=10**7),
    "`modalities.image.num_tokens` is '3'": rows("image", num_tokens="3"),
    "`modalities.image.options` has evil": rows("image", options={"evil": 1}),
    "`modalities.video.options.num_frames` is 'x'": rows("video", options={"num_frames": "x"}),
    "`modalities.image.inputs`": rows("image", inputs=["input_ids"]),
    "`modalities.image` is": lambda config: config["modalities"]["image"].pop("token"),
    "`config.modalities`": lambda config: config.update(modalities=[3]),
    "lacks '../x_tokenizer'": rows("image", processor="../x_tokenizer"),
    "sampling_rate` is -1": part("imu_feature_extractor", sampling_rate=-1),
    "std` is 0": part("imu_feature_extractor", std=0),
    "`image_processor.image_mean` is NaN": part("image_processor", image_mean=[0.5, float("nan"), 0.5]),
    "`image_processor.image_mean` is True": part("image_processor", image_mean=True),
    "`image_processor.image_mean` is inf": part("image_processor", image_mean=[0.5, float("inf"), 0.5]),
    "`image_processor.image_std` is .0.5, True": part("image_processor", image_std=[0.5, True, 0.5]),
    "`image_processor.crop_size` is": part("image_processor", crop_size={"height": True, "width": 32}),
    "`feature_extractor.padding_value` is .1.; it must be a number": part("feature_extractor", padding_value=[1]),
    "`feature_extractor.padding_value` is True": part("feature_extractor", padding_value=True),
    "`image_processor.rescale_factor` is True": part("image_processor", rescale_factor=True),
    "`image_processor.resample` is True": part("image_processor", resample=True),
    "`image_processor.do_resize` is {}": part("image_processor", do_resize={}),
    "`image_processor.do_center_crop` is {}": part("image_processor", do_center_crop={}),
    "`modalities.image.inputs` is empty": rows("image", inputs={}),
    "`modalities.image` has no `num_tokens`": rows("image", num_tokens=None),
    "channels` is": part("imu_feature_extractor", channels=[1, 2]),
    "`config.image_processor`": lambda config: config.update(image_processor=[]),
    "does not say its class": lambda config: config["image_processor"].pop("image_processor_type"),
    "`text_settings.stop`": lambda config: config.update(text_settings={"stop": [5]}),
}


@pytest.mark.parametrize("message", PROCESSOR)
def test_a_processor_config_that_makes_no_sense_is_refused_by_its_key(copy, message):
    edit(copy / "processor_config.json", PROCESSOR[message])
    with pytest.raises(ConfigError, match=f"processor_config.json of {copy}.*({message})"):
        AutoProcessor.from_pretrained(copy)


def test_a_processor_that_counts_by_what_is_not_there_is_refused(copy):
    edit(copy / "processor_config.json", rows("depth", grid="x"))
    processor = AutoProcessor.from_pretrained(copy)
    with pytest.raises(ConfigError, match="`modalities.depth.grid` is 'x', but there are only depth_values"):
        tiny.inputs(processor, tiny.chat("depth"))


def test_a_number_of_frames_that_nothing_cuts_is_refused(copy):
    edit(copy / "processor_config.json", rows("imu", num_frames=None))
    processor = AutoProcessor.from_pretrained(copy)
    with pytest.raises(ConfigError, match="`num_frames` is None, so that recordings are cut"):
        tiny.inputs(processor, tiny.chat("imu"))


def test_what_the_classes_of_transformers_say_of_themselves_is_not_refused():
    checked = {"configs": 0, "processors": 0}
    for cls in CONFIG_MAPPING.values():
        try:
            own = json.loads(cls().to_json_string(use_diff=False))
        except Exception:  # one that needs arguments, or another package
            continue
        check_numbers(cls.__name__, own)
        check_flags(cls.__name__, own, cls)
        checked["configs"] += 1
    for name in sorted(dir(transformers)):
        if not re.search(r"(ImageProcessor\w*|VideoProcessor|FeatureExtractor)$", name):
            continue
        try:
            cls = getattr(transformers, name)
            own = json.loads(cls().to_json_string())
        except Exception:
            continue
        check_numbers(name, own, finite=True)
        check_flags(name, own, cls)
        checked["processors"] += 1
    assert checked["configs"] > 300 and checked["processors"] > 80, checked


REFERENCES = {
    "it must have id": {"id": "x/y"},
    r"references.language_model.id` is 5": {"id": 5},
    r"references.language_model.tensors` is 0": {"tensors": 0},
    r"references.language_model.kept` is \[3\]": {"kept": [3]},
    "keeps no tensors": {"kept": []},
    "a dtype that torch does not have": {"dtype": "os"},
}


@pytest.mark.parametrize("message", REFERENCES)
def test_references_that_make_no_sense_are_refused(copy, message):
    whole = {"id": "x/y", "revision": None, "dtype": "float32", "select_layer": None, "sha256": "0" * 64, "tensors": 1}
    whole |= {"grown": [], "kept": None}
    given = REFERENCES[message]
    row = given if message == "it must have id" else {**whole, **given}
    edit(copy / "config.json", lambda config: config.update(references={"language_model": row}))
    with pytest.raises(ConfigError, match=message):
        AutoModelForCausalLM.from_pretrained(copy)
    edit(copy / "config.json", lambda config: config.update(references={"evil": whole}))
    with pytest.raises(ConfigError, match="a part that the model does not have"):
        AutoModelForCausalLM.from_pretrained(copy)
