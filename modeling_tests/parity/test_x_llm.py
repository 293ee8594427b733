"""X-LLM against recordings of the original, and the CIF of its speech encoder against those of the public one."""

import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from modeling_tests.parity.recordings import load_converted, write_release
from transformers_anymodality.conversion import convert


_BERT = ("pre_bert_proj", "speech_bert_adaptor", "post_bert_proj")
_PLAIN = re.compile(r"(?:.*\.)?(?:speech_feat_proj|asr_fc)\.(weight|bias)")  # the speech interface without BERT


def test_equals_the_original(recording, converted):
    rec = recording("xllm")
    rec.replay("x_llm", converted("x_llm", rec.folder, faithful=True))
    compare_without_bert(rec, converted)
    for index in range(len(rec.config.get("cif", []))):
        rec.replay("cif", converted_cif(rec, index, converted), index)
    rec.finish()


def compare_without_bert(rec, converted) -> None:
    """The original's option "fc": a recording may hold its weights and cases beside those of the usual interface."""
    cases = r"m?asr_fc\..*"
    if not any(re.fullmatch(cases, name) for name in rec.outputs):
        return
    plain = {
        f"speech_feat_proj.{part[1]}": tensor
        for file in sorted(rec.folder.glob("*.safetensors"))
        if file.stem != "outputs"
        for name, tensor in load_file(file).items()
        if (part := _PLAIN.fullmatch(name))
    }
    if not plain:
        rec.skip(cases, "of a speech interface without BERT, whose weights were not recorded")
        return
    own = {name: v for name, v in rec.weights("xllm").items() if not name.startswith((*_BERT, "asr_fc", *plain))}
    rec.replay("x_llm", converted("x_llm", config=rec.config, files={"xllm": own | plain}, faithful=True), "_fc")


def converted_cif(rec, index, converted):
    files = {"cif": rec.weights(f"cif.{index}")}
    return converted("cif", config=rec.config["cif"][index], files=files, faithful=True)


def test_speech_features_are_those_of_the_cif(recording, converted):
    """The recorded speech is what the first CIF gives: both halves of the C-Former in one aligner give its tokens."""
    rec = recording("xllm")
    if not rec.outputs.get("cif0.eval.cif_out", torch.empty(0)).equal(rec.inputs["speech_input"]):
        pytest.skip("the recorded speech is of another CIF")
    given = converted_cif(rec, 0, converted)(
        rec.inputs["cif0.x"], ~rec.inputs["cif0.padding_mask"].bool(), return_dict=True
    )
    torch.testing.assert_close(given.last_hidden_state, rec.inputs["speech_input"], atol=1e-5, rtol=1e-5)


# --- checkpoints of other stages ---------------------------------------------------------------------------------------


@pytest.fixture
def whole(recording):
    rec = recording("xllm")
    return rec, rec.weights("xllm")


def test_parts_come_from_the_files_of_others(whole, tmp_path):
    """As training writes checkpoints: without vision and language model; the vision from EVA's file, with a block more."""
    rec, weights = whole
    frozen = ("visual_encoder.", "opt_model.", "Qformer.")  # but their buffers stay
    kept = {name: v for name, v in weights.items() if name.endswith("inv_freq") or not name.startswith(frozen)}
    eva = {name[15:]: value for name, value in weights.items() if name.startswith("visual_encoder.")}
    last = max(int(name.split(".")[1]) for name in eva if name.startswith("blocks."))
    eva |= {name.replace(f"s.{last}.", f"s.{last + 1}."): v + 1 for name, v in eva.items() if f"s.{last}." in name}
    blip2 = {name: value for name, value in weights.items() if name.startswith(("Qformer", "query_tokens"))}
    blip2 |= {"Qformer.cls.predictions.bias": torch.zeros(3), "opt_model.model.decoder.weight": torch.zeros(3)}
    config = {key: rec.config[key] for key in ("vit", "qf", "bert", "frames") if key in rec.config}
    folder = write_release(tmp_path / "release", config, eva_vit_g=eva)
    older = {name: torch.zeros(1) for name in kept}
    for stem, tensors in {"checkpoint_9": older, "checkpoint_10": kept, "blip2_pretrained_opt6.7b": blip2}.items():
        torch.save({"model": tensors}, folder / f"{stem}.pth")
    language = {name[10:]: value for name, value in weights.items() if name.startswith("opt_model.")}
    published = {**rec.config["glm"], "model_type": "chatglm", "architectures": ["ChatGLMModel"]}
    with pytest.raises(ValueError, match="holds no language model, and no folder chatglm-6b"):
        convert("x_llm", folder, tmp_path / "lacking")
    write_release(folder / "chatglm-6b", published, model=language)
    convert("x_llm", folder, tmp_path / "parts", faithful=True)
    convert("x_llm", rec.folder, tmp_path / "whole", faithful=True)
    parts, expected = (load_converted(tmp_path / name).state_dict() for name in ("parts", "whole"))
    assert parts.keys() == expected.keys()
    assert [name for name in parts if not torch.equal(parts[name], expected[name])] == []


def test_without_video_and_speech(whole, tmp_path):
    rec, weights = whole
    lacking = ("video", "pre_bert", "post_bert", "speech_bert", "speech_feat_proj", "asr_fc")
    image = {name: value for name, value in weights.items() if not name.startswith(lacking)}
    convert("x_llm", write_release(tmp_path / "image", rec.config, xllm=image), tmp_path / "converted")
    model = load_converted(tmp_path / "converted")
    assert set(model.config.modalities) == {"image", "video"}
    assert torch.equal(model.video_aligner.queries, model.image_aligner.queries)
    assert torch.equal(model.video_aligner.projection.weight, model.image_aligner.projection.weight)
    assert model.video_aligner.projection.weight is not model.image_aligner.projection.weight


def test_what_is_missing_is_named(whole, tmp_path):
    rec, weights = whole
    few = {name: value for name, value in weights.items() if not name.startswith("Qformer")}
    folder = write_release(tmp_path / "few", rec.config, xllm=few)
    with pytest.raises(ValueError, match="has no qformer, which was frozen.*blip2_pretrained_opt6.7b.pth"):
        convert("x_llm", folder, tmp_path / "converted")


def test_the_converted_config_is_the_language_models(recording, tmp_path):
    rec = recording("xllm")
    convert("x_llm", rec.folder, tmp_path / "converted")
    config = AutoConfig.from_pretrained(tmp_path / "converted")
    assert config.text_config.model_type == "chatglm_6b" and config.reads_input_ids
    assert config.image_aligner_config.feature_norm_eps == 1e-5 and config.speech_aligner_config.faithful is False
