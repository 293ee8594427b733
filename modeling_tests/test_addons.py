"""Pipelines, placement, attention per part, compilation and the rest of the ecosystem, unpatched."""

import copy
import subprocess
import sys

import pytest
import soundfile
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, pipeline
from transformers.models.auto import modeling_auto

from modeling_tests import tiny
from modeling_tests.checks import last_logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("addons")
    model, processor = tiny.composite()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    Image.fromarray(tiny.medium("image")).save(folder / "photo.png")
    soundfile.write(folder / "speech.wav", tiny.medium("audio"), 16_000)
    return folder


@pytest.mark.parametrize("task", ["any-to-any", "image-text-to-text"])
def test_pipelines_take_every_modality(folder, task):
    pipe = pipeline(task, model=str(folder), device="cpu")
    content = [
        {"type": "image", "path": str(folder / "photo.png")},
        {"type": "audio", "path": str(folder / "speech.wav")},
        {"type": "imu", "imu": tiny.medium("imu")},
        {"type": "depth", "depth": tiny.medium("depth")},
        {"type": "text", "text": " what is this ?"},
    ]
    if task == "image-text-to-text":
        content = [part for part in content if part["type"] != "audio"]
    out = pipe(text=[{"role": "user", "content": content}], max_new_tokens=4, return_full_text=False)
    model, processor = pipe.model, pipe.processor
    inputs = tiny.inputs(processor, [{"role": "user", "content": content}])
    expected = model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    assert out[0]["generated_text"].split() == processor.decode(expected, skip_special_tokens=True).split()


def test_a_pipeline_takes_batches_with_sound(folder):
    """Transformers pads a batch of a pipeline by the feature extractor's side, and refuses one that is not the tokenizer's;
    that side is of sounds. `docs/compose.md` says what to do."""
    pipe = pipeline("any-to-any", model=str(folder), device="cpu")
    items = [
        {"text": "<audio> this", "audio": tiny.medium("audio", 1)},
        {"text": "<audio> what is that ?", "audio": tiny.medium("audio", 2)},
    ]
    alone = pipe(items, max_new_tokens=4)
    with pytest.raises(ValueError, match="don't agree on padding side"):
        pipe(items, max_new_tokens=4, batch_size=2)
    pipe.feature_extractor = copy.copy(pipe.feature_extractor)
    pipe.feature_extractor.padding_side = pipe.tokenizer.padding_side
    assert pipe(items, max_new_tokens=4, batch_size=2) == alone
    assert pipe.processor.feature_extractor.padding_side == "right"


def test_serving_finds_the_class_by_name():
    for table in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"):
        names = getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES")
        assert names["anymodality"] == "AnyModalityForCausalLM"


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, "by part"])
def test_device_maps(folder, device_map):
    plain = AutoModelForCausalLM.from_pretrained(folder)
    if device_map == "by part":
        device_map = dict.fromkeys(plain.part_names, "cpu")
    placed = AutoModelForCausalLM.from_pretrained(folder, device_map=device_map)
    inputs = tiny.inputs(tiny.composite()[1], *tiny.CHATS)
    assert torch.equal(last_logits(placed, inputs), last_logits(plain, inputs))


def test_parts_offloaded_to_disk(folder, tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(folder)
    placed = dict.fromkeys(plain.part_names, "cpu") | {"image_tower": "disk"}
    offloaded = AutoModelForCausalLM.from_pretrained(folder, device_map=placed, offload_folder=tmp_path)
    inputs = tiny.inputs(tiny.composite()[1], *tiny.CHATS)
    torch.testing.assert_close(last_logits(offloaded, inputs), last_logits(plain, inputs))


def test_attention_of_each_part(folder):
    mixed = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation={"text_config": "eager", "image_config": "sdpa", "image_aligner_config": "eager"}
    )
    chosen = {name: part.config._attn_implementation for name, part in mixed.named_children()}
    assert (chosen["language_model"], chosen["image_tower"], chosen["image_aligner"]) == ("eager", "sdpa", "eager")
    inputs = tiny.inputs(tiny.composite()[1], *tiny.CHATS)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(last_logits(mixed, inputs), last_logits(plain, inputs), atol=2e-5, rtol=1e-4)
    plain.set_attn_implementation("eager")
    assert {part.config._attn_implementation for _, part in plain.named_children()} == {"eager"}


def test_compiled_equals_eager(shared):
    model, processor = shared
    inputs = dict(tiny.inputs(processor, tiny.CHATS[0]))
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)


def test_embeddings_grow():
    model, processor = tiny.composite()
    inputs = tiny.inputs(processor, *tiny.CHATS)
    before, rows = last_logits(model, inputs), model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows + 3, mean_resizing=False)
    assert model.config.get_text_config().vocab_size == rows + 3
    torch.testing.assert_close(last_logits(model, inputs)[:, :rows], before)


def test_dtype_of_loading(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    inputs = tiny.inputs(tiny.composite()[1], *tiny.CHATS)
    assert torch.isfinite(model(**inputs).logits).all()


def test_the_core_imports_without_any_extra():
    """Neither decoders nor training libraries are touched by importing the package."""
    code = (
        "import sys\n"
        "for name in ('soundfile', 'soxr', 'torchaudio', 'av', 'torchcodec', 'pyarrow', 'peft', 'timm', 'datasets', 'bitsandbytes', 'PIL', 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        "import transformers_anymodality\n"
        "print(len(transformers_anymodality.__all__))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
