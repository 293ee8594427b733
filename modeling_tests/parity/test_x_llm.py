"""X-LLM against recordings of the original, and the CIF of its speech encoder against those of the public one."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from transformers_anymodality.conversion import CONVERSIONS, convert
from transformers_anymodality.conversion._recordings import load_converted


def test_x_llm_equals_the_original(recording, converted, tmp_path):
    rec = recording("xllm")
    model = converted(rec, "x_llm", faithful=True)
    for name, ours in CONVERSIONS["x_llm"].replay(model, rec.config, rec.inputs):
        rec.check(name, ours)
    for index, settings in enumerate(rec.config["cif"]):
        inputs = {name.split(".")[1]: value for name, value in rec.inputs.items() if name.startswith(f"cif{index}.")}
        cif = converted_cif(rec.folder / f"cif.{index}.safetensors", settings, tmp_path / f"cif{index}")
        for name, ours in CONVERSIONS["cif"].replay(cif, settings, inputs):
            rec.check(f"cif{index}.{name}", ours.to(rec.outputs[f"cif{index}.{name}"].dtype))
    rec.finish()


def converted_cif(weights, settings, folder):
    source = folder / "source"
    source.mkdir(parents=True)
    shutil.copy(weights, source / "cif.safetensors")
    (source / "config.json").write_text(json.dumps(settings))
    convert("cif", source, folder / "converted", faithful=True)
    return load_converted(folder / "converted")


def test_speech_features_are_those_of_the_cif(recording, tmp_path):
    """The recorded speech is what the first CIF gives: both halves of the C-Former in one aligner give its tokens."""
    rec = recording("xllm")
    cif = converted_cif(rec.folder / "cif.0.safetensors", rec.config["cif"][0], tmp_path)
    given = cif(rec.inputs["cif0.x"], ~rec.inputs["cif0.padding_mask"].bool(), return_dict=True)
    torch.testing.assert_close(given.last_hidden_state, rec.inputs["speech_input"], atol=1e-5, rtol=1e-5)


# --- checkpoints of other stages ---------------------------------------------------------------------------------------


@pytest.fixture
def whole(recording):
    rec = recording("xllm")
    return rec, load_file(rec.folder / "xllm.safetensors")


def write(folder, config, **files):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name, (tensors, wrapper) in files.items():
        if wrapper:
            torch.save({wrapper: tensors}, folder / f"{name}.pth")
        else:
            save_file(tensors, folder / f"{name}.safetensors")
    return folder


def test_parts_come_from_the_files_of_others(whole, tmp_path):
    """As training writes checkpoints: without vision and language model; the vision from EVA's file, with a block more."""
    rec, weights = whole
    kept = {name: weights[name] for name in rec.config["checkpoint_model_keys"]}
    kept = {name: value for name, value in kept.items() if not name.startswith("Qformer")}
    eva = {name[15:]: value for name, value in weights.items() if name.startswith("visual_encoder.")}
    last = max(int(name.split(".")[1]) for name in eva if name.startswith("blocks."))
    eva |= {name.replace(f"s.{last}.", f"s.{last + 1}."): v + 1 for name, v in eva.items() if f"s.{last}." in name}
    blip2 = {name: value for name, value in weights.items() if name.startswith(("Qformer", "query_tokens"))}
    blip2 |= {"Qformer.cls.predictions.bias": torch.zeros(3), "opt_model.model.decoder.weight": torch.zeros(3)}
    folder = write(
        tmp_path / "release",
        {key: rec.config[key] for key in ("vit", "qf", "bert", "frames")},
        checkpoint_9=({name: torch.zeros(1) for name in kept}, "model"),
        checkpoint_10=(kept, "model"),
        eva_vit_g=(eva, None),
        **{"blip2_pretrained_opt6.7b": (blip2, "model")},
    )
    language = {name[10:]: value for name, value in weights.items() if name.startswith("opt_model.")}
    published = {**rec.config["glm"], "model_type": "chatglm", "architectures": ["ChatGLMModel"]}
    with pytest.raises(ValueError, match="holds no language model, and no folder chatglm-6b"):
        convert("x_llm", folder, tmp_path / "lacking")
    write(folder / "chatglm-6b", published, pytorch_model=(language, None))
    (folder / "chatglm-6b" / "pytorch_model.safetensors").rename(folder / "chatglm-6b" / "model.safetensors")
    convert("x_llm", folder, tmp_path / "parts", faithful=True)
    convert("x_llm", rec.folder, tmp_path / "whole", faithful=True)
    parts, expected = (load_converted(tmp_path / name).state_dict() for name in ("parts", "whole"))
    assert parts.keys() == expected.keys()
    assert [name for name in parts if not torch.equal(parts[name], expected[name])] == []


def test_without_video_and_speech(whole, tmp_path):
    rec, weights = whole
    lacking = ("video", "pre_bert", "post_bert", "speech_bert")
    image = {name: value for name, value in weights.items() if not name.startswith(lacking)}
    convert("x_llm", write(tmp_path / "image", rec.config, xllm=(image, None)), tmp_path / "converted")
    model = load_converted(tmp_path / "converted")
    assert set(model.config.modalities) == {"image", "video"}
    assert torch.equal(model.video_aligner.queries, model.image_aligner.queries)
    assert torch.equal(model.video_aligner.projection.weight, model.image_aligner.projection.weight)
    assert model.video_aligner.projection.weight is not model.image_aligner.projection.weight


def test_what_is_missing_is_named(whole, tmp_path):
    rec, weights = whole
    few = {name: value for name, value in weights.items() if not name.startswith("Qformer")}
    folder = write(tmp_path / "few", rec.config, xllm=(few, None))
    with pytest.raises(ValueError, match="has no qformer, which was frozen.*blip2_pretrained_opt6.7b.pth"):
        convert("x_llm", folder, tmp_path / "converted")


def test_the_converted_config_is_the_language_models(recording, tmp_path):
    rec = recording("xllm")
    convert("x_llm", rec.folder, tmp_path / "converted")
    config = AutoConfig.from_pretrained(tmp_path / "converted")
    assert config.text_config.model_type == "chatglm_6b" and config.reads_input_ids
    assert config.image_aligner_config.feature_norm_eps == 1e-5 and config.speech_aligner_config.faithful is False
