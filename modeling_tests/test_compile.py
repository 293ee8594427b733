"""torch.compile and torch.export: the whole forward is one graph, and the host need not wait for the device."""

import copy
import pickle
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils import _pytree as pytree
from transformers import (
    AutoModelForCausalLM,
    CompileConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Trainer,
    TrainingArguments,
    Wav2Vec2FeatureExtractor,
)
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter
from transformers.exporters.utils import decompose_for_generation

from modeling_tests import any_size, tiny
from modeling_tests.checks import TIGHT
from modeling_tests.docs import block
from modeling_tests.host_waits import host_waits
from transformers_anymodality import AnyModalityDataCollator, AnyModalityForCausalLM, set_trainable
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.towers.imu2clip import Imu2ClipConfig


# As LLaVA reads its tower: the last layer's own output of one that was cut, patches only.
LLAVA = {
    "tower": tiny.vision_config(),
    "processor": tiny.image_processor(),
    "aligner": "mlp",
    "select_layer": -2,
    "select_feature": "patches",
}
IMU2CLIP = {"hidden_size": 16, "conv_channels": 8, "context_length": 350}


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batch(model: Any, *images: int, words: int = 6) -> dict[str, torch.Tensor]:
    """Rows with so many images each, of `LLAVA`'s 16 tokens."""
    generator = torch.Generator().manual_seed(0)
    length = 16 * max(images) + words
    ids = torch.randint(4, len(tiny.WORDS), (len(images), length), generator=generator)
    for row, count in zip(ids, images, strict=True):
        row[1 : 1 + 16 * count] = model.config.image_token_id
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if sum(images):
        inputs["pixel_values"] = torch.randn(sum(images), 3, 32, 32, generator=generator)
    return inputs


def with_labels(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = inputs["input_ids"]
    return {**inputs, "labels": ids.masked_fill(torch.arange(ids.shape[1]) < ids.shape[1] - 4, -100)}


def check_compiled(model: Any, inputs: dict[str, Any]) -> None:
    """One graph, and the same results and gradients, to the bit."""
    results = []
    for call in (model, torch.compile(model, fullgraph=True, backend="eager")):
        model.zero_grad()
        output = call(**inputs)
        if output.loss is not None and output.loss.requires_grad:
            output.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append(({name: value for name, value in output.items() if name != "cache"}, gradients))
    (plain, expected), (compiled, gradients) = results
    assert plain.keys() == compiled.keys() and expected.keys() == gradients.keys()
    for name in ("loss", "logits"):
        if name in plain:
            torch.testing.assert_close(compiled[name], plain[name], **TIGHT)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, **TIGHT)


SLOW = pytest.mark.slow
PHASES = [pytest.param(phase, marks=SLOW) for phase in ("eval", "labels", "train", "frozen")]


@pytest.mark.parametrize("images", [pytest.param((0, 0), marks=SLOW), (1, 2)], ids=["text", "images"])
@pytest.mark.parametrize("phase", ["loss alone", *PHASES])
def test_forward_is_one_graph(phase, images):
    model, _ = tiny.composite(settings={"image": LLAVA})
    inputs: dict[str, Any] = batch(model, *images)
    if phase != "eval":
        inputs = with_labels(inputs)
    if phase in ("frozen", "loss alone"):
        set_trainable(model, ["image_aligner", "language_model"])
    if phase == "loss alone":  # as the Trainer asks
        inputs |= {"skip_logits": torch.tensor(True), "num_items_in_batch": torch.tensor(8)}
    model.train(phase in ("train", "frozen", "loss alone"))
    check_compiled(model, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_all_modalities_are_one_graph(train):
    """Resamplers, borrowed towers, videos, sound in strides, signals."""
    model, processor = tiny.composite()
    inputs = tiny.inputs(processor, *tiny.CHATS)
    model.train(train)
    check_compiled(model, with_labels(inputs))


def test_other_counts_of_images_and_lengths_make_no_new_graphs():
    model, _ = tiny.composite(settings={"image": LLAVA})
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        for images in [(1, 1), (2, 1), (4, 4), (0, 2)]:
            inputs = batch(model, *images)
            torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, **TIGHT)
    assert counter.frame_count == 2  # the first sizes, then any


def test_decoding_with_a_static_cache_is_one_graph():
    model, _ = tiny.composite(settings={"image": LLAVA})
    inputs, options = batch(model, 1, 1), {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **options)
    config = CompileConfig(fullgraph=True, backend="eager", mode=None)
    config._compile_all_devices = True
    options |= {"cache_implementation": "static", "compile_config": config}
    torch._dynamo.utils.counters.clear()
    assert torch.equal(model.generate(**inputs, **options), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=SLOW)])
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_export_takes_other_sizes(strict):
    model, _ = tiny.composite(settings={"image": LLAVA})
    auto = torch.export.Dim.AUTO
    sizes: dict[str, Any] = {"input_ids": {0: auto, 1: auto}, "attention_mask": {0: auto, 1: auto}}
    sizes["kwargs"] = {"pixel_values": {0: auto}, "use_cache": None}
    with torch.no_grad():
        inputs = {**batch(model, 1, 1), "use_cache": False}
        program = torch.export.export(model, (), inputs, dynamic_shapes=sizes, strict=strict).module()
        for images, words in [((2, 1), 6), ((1, 1, 1), 9), ((3,), 4)]:
            inputs = batch(model, *images, words=words)
            output, expected = program(**inputs, use_cache=False), model(**inputs)
            assert type(output) is type(expected)
            torch.testing.assert_close(output.logits, expected.logits, **TIGHT)


@SLOW
@pytest.mark.parametrize("names", [("image",), ("audio", "image", "imu", "video")], ids="-".join)
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_transformers_exporter(names):
    """Every axis open; and what it takes apart for generation."""
    model, processor = tiny.composite(settings=tiny.modalities(*names))
    inputs = dict(tiny.inputs(processor, tiny.chat(*names, "what"), tiny.chat(*names, "that", seed=1)))
    settings = DynamoConfig(dynamic=True)
    exported = DynamoExporter().export(model, dict(inputs), config=settings)
    program = getattr(exported, "program", exported).module()  # since 5.23 it is within an `ExportedModel`
    more = dict(tiny.inputs(processor, *(tiny.chat(*names, "what", "is", "this", seed=seed) for seed in (2, 3, 4))))
    with torch.no_grad():
        torch.testing.assert_close(program(**more).logits, model(**more).logits, **TIGHT)
    for part, given in decompose_for_generation(model, inputs).values():
        DynamoExporter().export(part, dict(given), config=settings)


@SLOW
def test_the_export_of_the_documentation(tmp_path, monkeypatch):
    for part in tiny.composite(settings={"image": LLAVA}):
        part.save_pretrained(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    Path("export.py").write_text(block("compile.md", "torch.export"))
    scope = runpy.run_path("export.py")
    model, inputs = scope["model"], scope["inputs"]
    program = torch.export.load("model.pt2").module()
    inputs = {name: value[:1, 2:].repeat(3, 1) for name, value in inputs.items()}
    alone = "import torch, transformers_anymodality; torch.export.load('model.pt2')"  # where no model was built
    subprocess.run([sys.executable, "-c", alone], check=True)
    torch.testing.assert_close(program(**inputs, use_cache=False).logits, model(**inputs).logits, **TIGHT)


def test_outputs_are_pickled_copied_and_taken_apart():
    model, _ = tiny.composite(settings={"image": LLAVA})
    output = model(**with_labels(batch(model, 1, 2)), use_cache=False)
    leaves, spec = pytree.tree_flatten(output)
    detached = pytree.tree_unflatten([leaf.detach() for leaf in leaves], spec)
    for again in (detached, pickle.loads(pickle.dumps(detached)), copy.copy(output), copy.deepcopy(detached)):
        assert type(again) is type(output) and again.keys() == output.keys()
        assert torch.equal(again.logits, output.logits)
        assert torch.equal(again.modality_hidden_states["image"], output.modality_hidden_states["image"])


def test_a_cut_tower_is_read_alike_in_copies_and_from_checkpoints(tmp_path):
    model, _ = tiny.composite(settings={"image": LLAVA})
    model.save_pretrained(tmp_path)
    inputs = batch(model, 1, 2)
    for again in (copy.deepcopy(model), AutoModelForCausalLM.from_pretrained(tmp_path).eval()):
        assert again.state_dict().keys() == model.state_dict().keys()
        assert again.image_tower.last_layer_hook is not model.image_tower.last_layer_hook
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, **TIGHT)


def test_what_cannot_be_one_graph_says_so():
    """As Transformers' own tests ask. The language model's word counts, and that of our towers and aligners."""
    model, processor = tiny.composite(settings={"imu": {"tower": Imu2ClipConfig(**IMU2CLIP), "aligner": "linear"}})
    assert AnyModalityForCausalLM._can_compile_fullgraph and not model._can_compile_fullgraph
    with pytest.raises(torch._dynamo.exc.Unsupported, match="GRU"):
        torch.compile(model, fullgraph=True, backend="eager")(**tiny.inputs(processor, tiny.chat("imu", "what")))
    for language, can in [("llama", True), ("mamba", False)]:
        assert tiny.composite(language, {"image": LLAVA})[0]._can_compile_fullgraph == can


@SLOW
def test_media_of_any_size_are_one_graph_where_their_tokens_are_as_many():
    any_size.register_document()
    try:
        settings = any_size.modalities()
        made = {name: tiny.composite(settings={name: settings[name]}) for name in ("image", "document", "audio")}
        assert {name: one._can_compile_fullgraph for name, (one, _) in made.items()} == {
            "image": False,
            "document": True,
            "audio": False,
        }
        row = [("document", any_size.image(20, 70)), "what", ("document", any_size.image(32, 32))]
        model, processor = made["document"]
        inputs = tiny.inputs(processor, any_size.chat(row))
        with torch.no_grad():
            compiled = torch.compile(model, fullgraph=True, backend="eager")(**inputs).logits
            torch.testing.assert_close(compiled, model(**inputs).logits, **TIGHT)
    finally:
        del MODALITIES["document"]


@SLOW
@pytest.mark.parametrize("phase", ["eval", "train"])
def test_sounds_of_several_lengths_are_one_graph(phase):
    """Each has tokens of its own number."""
    settings = {"tower": tiny.wav2vec2_config(), "processor": Wav2Vec2FeatureExtractor(), "aligner": "linear"}
    model, processor = tiny.composite(settings={"audio": settings})
    inputs = tiny.inputs(processor, tiny.chat("audio", "what"), tiny.chat("audio", "and", "this", seed=3))
    assert len(inputs["audio_feature_lengths"].unique()) == 2
    if phase == "train":  # a Wav2Vec2 that is trained itself is not traced, alone either
        set_trainable(model, ["audio_aligner", "language_model"])
        model.train()
    check_compiled(model, with_labels(inputs))


@SLOW
def test_ids_beside_embeddings_are_one_graph():
    """Of a language model that reads ids for more than their embeddings."""
    model, _ = tiny.composite("gemma3n_text", settings={"image": LLAVA})
    assert model.config.reads_input_ids
    with torch.no_grad():
        check_compiled(model, batch(model, 1, 2))


# --- where the host waits for the device --------------------------------------------------------------------------------


def llava(model: Any) -> LlavaForConditionalGeneration:
    """Transformers' own, of the same sizes; its weights are others."""
    config = LlavaConfig(
        vision_config=tiny.vision_config(),
        text_config=copy.deepcopy(model.config.text_config),
        image_token_index=model.config.image_token_id,
        image_seq_length=16,
    )
    return LlavaForConditionalGeneration(config).eval()


def test_waits_are_found():
    numbers = torch.arange(4)
    assert host_waits(lambda: numbers + 1) == 0
    assert host_waits(lambda: (numbers[numbers > 1], int(numbers[0]), bool(numbers.any()), numbers.nonzero())) == 4


def test_the_host_waits_no_more_often_than_in_llava():
    model, _ = tiny.composite(settings={"image": LLAVA})
    theirs, inputs = llava(model), batch(model, 1, 2)
    with torch.no_grad():
        assert host_waits(model, **inputs) <= host_waits(theirs, **inputs)
    inputs = with_labels(inputs)
    set_trainable(model, ["image_aligner", "language_model"])
    ours = host_waits(model.train(), **inputs, skip_logits=True)
    assert ours <= host_waits(theirs.train(), **inputs)


def test_more_modalities_are_no_more_waits():
    waits = []
    for settings in (tiny.modalities("image"), tiny.modalities()):
        model, processor = tiny.composite(settings=settings)
        inputs = with_labels(tiny.inputs(processor, tiny.chat("image", "what is this ?")))
        with torch.no_grad():
            waits.append((host_waits(model, **inputs), host_waits(model.train(), **inputs, skip_logits=True)))
    assert waits[0] == waits[1]


def test_a_step_of_decoding_adds_no_wait():
    """Generation itself asks at each step whether all rows have ended."""
    model, _ = tiny.composite(settings={"image": LLAVA})
    inputs = batch(model, 1, 1)

    def step(model: Any, inputs: dict[str, torch.Tensor]) -> float:
        short, long = (
            host_waits(model.generate, **inputs, max_new_tokens=n, min_new_tokens=n, do_sample=False) for n in (2, 12)
        )
        return (long - short) / 10

    text = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    assert step(model, inputs) == step(model, text) == step(model.language_model, text) == 1


# --- trainers -------------------------------------------------------------------------------------------------------------


@SLOW
def test_the_trainer_compiles(tmp_path):
    model, processor = tiny.composite(settings={"image": LLAVA})
    set_trainable(model, ["image_aligner"])
    before = model.image_aligner.linear_1.weight.clone()
    options = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
    }
    options["remove_unused_columns"] = False
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), torch_compile=True, torch_compile_backend="eager", **options),
        data_collator=AnyModalityDataCollator(processor),
        train_dataset=[{"messages": tiny.chat("image", "what is this ?", answer=word)} for word in ("yes", "no")] * 2,
    )
    torch._dynamo.utils.counters.clear()
    assert trainer.train().training_loss > 0
    assert not torch.equal(model.image_aligner.linear_1.weight, before)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
