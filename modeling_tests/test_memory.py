"""What training does not have to keep: logits of prompts, gradients and activations of frozen parts, full precision."""

import pytest
import torch
from accelerate.utils import concatenate
from peft import get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

from modeling_tests import tiny
from modeling_tests.tiny_causal_lms import causal_lm_types
from modeling_tests.training_runs import samples, trainer
from transformers_anymodality import AnyModalityDataCollator, compose, lora_config, set_trainable
from transformers_anymodality.training.parts import checkpoint_activations


UNTESTABLE = {
    "cpmant": "it takes no media",
    "reformer": "its attention hashes at random, so that no two passes are the same",
    "xlstm": "its backward pass fails for rows longer than one chunk",
}
# Their own loss does not shift labels, or their head is no module: all logits are computed.
WHOLE_LOGITS = set(
    "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet xlm xlnet".split()
)


# --- logits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", tiny.swept([name for name in causal_lm_types() if name not in UNTESTABLE]))
def test_logits_are_computed_where_labels_are_and_nothing_else_changes(model_type):
    """For any language model: the loss and every gradient are those of all logits; few kinds of heads need all."""
    language = tiny.language_model(model_type, vocab_size=len(tiny.WORDS) + 8)
    tower = {"tower": tiny.vision_config(num_hidden_layers=1), "processor": tiny.image_processor()}
    model, processor = tiny.composite(language, {"image": {**tower, "aligner": "linear", "num_tokens": 3}})
    batch = AnyModalityDataCollator(processor)(
        [
            {"messages": tiny.chat("image", "what is this ?", answer="yes")},
            {"messages": tiny.chat("what", "image", "and that ?", answer="no one two three")},
        ]
    )
    model.requires_grad_(True).train()
    results, places = [], []
    model.get_output_embeddings().register_forward_hook(lambda head, args, out: places.append(out.shape[:-1]))
    for skipped in (True, False):
        model.zero_grad()
        torch.manual_seed(0)  # dropout
        output = model(**{**batch, "skip_logits": skipped})
        assert ("logits" in output) != skipped
        output.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((output.loss.detach(), gradients))
    (loss, gradients), (whole, expected) = results
    torch.testing.assert_close(loss, whole, atol=1e-6, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        atol = 1e-6 + 1e-4 * float(gradient.abs().max())
        torch.testing.assert_close(gradients[name], gradient, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    if model_type not in WHOLE_LOGITS:
        assert places == [(1, int((batch["labels"] != -100).sum())), batch["labels"].shape]


def test_who_reads_logits_beside_labels_gets_them_whole():
    """The collator asks the Trainer's own loss alone to do without logits, and can be told not to."""
    model, processor = tiny.composite()
    set_trainable(model, "aligners", verbose=False)
    batch, whole = (AnyModalityDataCollator(processor, skip_logits=skip)(samples(3)) for skip in (True, False))
    places, number = batch["labels"].shape, int((batch["labels"] != -100).sum())
    model.train()
    assert model(**batch).logits.shape[:2] == places  # a loss of one's own
    without_labels = {name: value for name, value in batch.items() if name != "labels"}
    assert model(**without_labels, num_items_in_batch=number).logits.shape[:2] == places  # label smoothing
    assert model(**whole, num_items_in_batch=number).logits.shape[:2] == places
    short = model(**batch, num_items_in_batch=number)
    assert short.logits is None and short[0] is short.loss
    torch.testing.assert_close(short.loss, model(**whole).loss, atol=1e-6, rtol=1e-5)
    model.eval()
    assert model(**batch, num_items_in_batch=number).logits.shape[:2] == places  # metrics


@torch.no_grad()
def test_a_batch_that_asks_for_no_logits_disturbs_nobody():
    """Generation, adapters, the headless model, and what cuts and joins batches."""
    model, processor = tiny.composite("gpt2", tiny.modalities("imu"))
    batch = AnyModalityDataCollator(processor)([{"messages": tiny.chat("imu", "what ?", answer="one")}] * 2)
    del batch["labels"]
    plain = {name: value for name, value in batch.items() if name != "skip_logits"}
    for settings in ({}, {"num_beams": 2}):
        answers = [model.generate(**one, max_new_tokens=4, do_sample=False, **settings) for one in (batch, plain)]
        assert torch.equal(*answers)
    states = [model.base_model(**one).last_hidden_state for one in (batch, plain)]
    torch.testing.assert_close(*states, atol=0, rtol=0)
    joined = concatenate([batch, batch])
    assert joined["skip_logits"].tolist() == [True] * 4
    assert get_peft_model(model, lora_config(model, r=2))(**joined).logits.shape[:2] == joined["input_ids"].shape


def test_a_loss_of_ones_own_stays():
    model, processor = tiny.composite()
    batch = AnyModalityDataCollator(processor)(samples(3))
    seen = []

    def own(logits, labels, vocab_size, **kwargs):
        seen.append(tuple(logits.shape[:2]))
        return logits.sum() * 0 + 7

    model.language_model.loss_function = own
    for _ in range(2):
        assert model.train()(**{**batch, "skip_logits": True}).loss == 7
    assert seen == [(1, int((batch["labels"] != -100).sum()))] * 2
    assert model.language_model.loss_function is own


def test_a_batch_without_labels_to_learn_from_is_no_error():
    model, processor = tiny.composite()
    batch = AnyModalityDataCollator(processor)(samples(2))
    labels = torch.full_like(batch["labels"], -100)
    output = model.train()(**{**batch, "labels": labels, "skip_logits": True})
    assert "loss" in output


# --- frozen parts --------------------------------------------------------------------------------------------------------


class AtStep(TrainerCallback):
    def __init__(self, call):
        self.call = call

    def on_pre_optimizer_step(self, *args, **kwargs):
        self.call()


@pytest.mark.parametrize("parts", ["aligners", ["aligners", "image_tower"]])
def test_frozen_parts_have_neither_gradients_nor_optimizer_state(tmp_path, parts):
    model, processor = tiny.composite()
    set_trainable(model, parts, verbose=False)
    made, held = [], []
    handle = model.imu_tower.register_forward_hook(lambda module, args, output: made.append(output.last_hidden_state))
    run = trainer(model, processor, tmp_path, max_steps=3)
    run.add_callback(AtStep(lambda: held.append({n for n, p in model.named_parameters() if p.grad is not None})))
    run.train()
    handle.remove()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("_aligner." in name or name.startswith("image_tower.") for name in trained)
    assert held and all(names <= trained.keys() for names in held)
    assert {id(p) for p in run.optimizer.optimizer.state} <= {id(p) for p in trained.values()}
    assert sum(len(group["params"]) for group in run.optimizer.param_groups) == len(trained)
    assert made and not any(features.requires_grad for features in made), "activations of a frozen tower are kept"


# --- activations -----------------------------------------------------------------------------------------------------------


def test_activations_are_computed_again_in_the_parts_that_are_named():
    model, processor = tiny.composite()
    set_trainable(model, "all", verbose=False)
    model.train()
    batch = AnyModalityDataCollator(processor)(samples(4))
    layers = {
        "image_tower": model.image_tower.encoder.layers[0].mlp,
        "language_model": model.language_model.model.layers[0].mlp,
    }
    expected, found = None, []
    for parts in ([], "towers", "language_model", ["image_tower", "language_model"], "all"):
        checkpoint_activations(model, parts)
        calls = dict.fromkeys(layers, 0)

        def count(name: str, calls: dict[str, int] = calls):
            return lambda *args: calls.update({name: calls[name] + 1})

        hooks = [layer.register_forward_pre_hook(count(name)) for name, layer in layers.items()]
        model.zero_grad()
        model(**batch).loss.backward()
        for hook in hooks:
            hook.remove()
        found.append(tuple(calls.values()))
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        expected = gradients if expected is None else expected
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                gradient, expected[name], atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
    (tower, language), *others = found
    assert others == [(2 * tower, language), (tower, 2 * language), *[(2 * tower, 2 * language)] * 2]


def test_parts_that_cannot_compute_activations_again():
    model, _ = tiny.composite()
    with pytest.raises(ValueError, match="Did you mean 'towers'"):
        checkpoint_activations(model, "tower")
    model.image_tower.supports_gradient_checkpointing = False
    checkpoint_activations(model, "towers")
    with pytest.raises(ValueError, match="image_tower.*cannot recompute activations"):
        checkpoint_activations(model, "image_tower")


# --- four bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True], ids=["aligners", "aligners and LoRA"])
def test_a_language_model_in_four_bits_teaches_its_aligners(tmp_path, lora):
    """As AnyMAL was trained: the language model frozen in 4 bits, aligners in full precision."""
    tiny.language_model().save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    language = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantization, device_map="cpu")
    model, processor = compose(language, tiny.modalities("image", "imu"), tokenizer=tiny.tokenizer())
    layer = model.language_model.model.layers[0].self_attn.q_proj
    assert type(layer).__name__ == "Linear4bit" and layer.weight.dtype == torch.uint8
    if lora:
        model = get_peft_model(model, lora_config(model, r=2, init_lora_weights=False))
    else:
        set_trainable(model, "aligners", verbose=False)
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    batch = AnyModalityDataCollator(processor)(
        [{"messages": tiny.chat("image", "imu", "what ?", seed=i, answer="one two")} for i in range(2)]
    )
    with torch.no_grad():
        model.eval()(**batch)  # where bitsandbytes would pack the weights
    model.train()
    optimizer, losses = torch.optim.AdamW(trained.values(), lr=1e-2), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in trained.values())
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(trained) and all("_aligner" in name or "lora_" in name for name in changed)
    # What is saved is loaded with the same parts quantised, and goes on learning under the stock Trainer.
    model.eval()
    if lora:
        model = model.merge_and_unload()
    with torch.no_grad():
        expected = model(**batch).logits
    model.save_pretrained(tmp_path / "composite")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "composite")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, expected, atol=1e-5, rtol=1e-5)
    for name, module in again.named_modules():
        if isinstance(module, torch.nn.Linear):
            quantised = name.startswith("language_model.") and not name.endswith("lm_head")
            assert (type(module).__name__ == "Linear4bit") == quantised, name
    set_trainable(again, "aligners", verbose=False)
    before = {name: p.detach().clone() for name, p in again.named_parameters()}
    samples = [{"messages": tiny.chat("image", "imu", "what ?", seed=i, answer="one two")} for i in range(2)]
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=2, report_to="none", remove_unused_columns=False, use_cpu=True, save_steps=1
    )
    Trainer(again, arguments, AnyModalityDataCollator(processor), samples).train()
    assert all(torch.equal(p, before[name]) != ("_aligner" in name) for name, p in again.named_parameters())
