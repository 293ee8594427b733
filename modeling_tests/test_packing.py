"""Packed rows teach what padded rows teach, or packing is refused."""

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import Trainer, TrainingArguments

from modeling_tests import tiny
from transformers_anymodality import AnyModalityDataCollator, set_trainable
from transformers_anymodality.training.packing import AnyModalityPackingCollator, check_packing, first_fit, plan_rows


# Of both kinds, over architectures: rotary and learned positions, windows, experts; states, ALiBi, positions by the mask.
PACKABLE = ["llama", "qwen3", "gpt2", "gemma2", "mistral", "mixtral", "phi"]
if Version(transformers.__version__) >= Version("5.23"):  # before that its chunks count on from the sample before
    PACKABLE.append("llama4_text")
REFUSED = ("bloom", "mpt", "mamba", "mamba2", "jamba", "recurrent_gemma", "qwen3_next", "opt", "doge", "bart")
ROW = 64


def words(count: int, seed: int) -> str:
    known = [word for word in tiny.WORDS if word.isalpha()]
    chosen = torch.randint(len(known), (count,), generator=torch.Generator().manual_seed(seed))
    return " ".join(known[i] for i in chosen)


def samples() -> list[dict]:
    """Of many lengths (tiny windows are of 16 tokens), with changing media, none among them."""
    kinds = [
        ("image",), (20,), (9, "image", "imu"), ("depth", 30), (6,), ("image", 12, "image"), (3,), ("audio", 8), ("video", 2)
    ]  # fmt: skip
    parts = [[words(part, i) if isinstance(part, int) else part for part in kind] for i, kind in enumerate(kinds)]
    return [{"messages": tiny.chat(*p, seed=i, answer=words(1 + 3 * (i % 4), i + 50))} for i, p in enumerate(parts)]


def learned(model, batch, **kwargs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch, **kwargs).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model, first, second, **kwargs) -> None:
    (loss, gradients), (other, others) = learned(model, first, **kwargs), learned(model, second, **kwargs)
    torch.testing.assert_close(other, loss, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        atol = 1e-5 + 1e-3 * float(gradient.abs().max())
        torch.testing.assert_close(others[name], gradient, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def composite(model_type: str, attention: str | None = None):
    model, processor = tiny.composite(model_type)
    if attention is not None:
        model.language_model.set_attn_implementation(attention)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model, processor


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", PACKABLE)
def test_loss_and_gradients_are_those_of_padded_rows(model_type, attention):
    if (model_type, attention) == ("gemma2", "sdpa"):
        pytest.skip("it has no SDPA attention")
    model, processor = composite(model_type, attention)
    model.requires_grad_(True).train()
    packed = AnyModalityPackingCollator(processor, max_length=ROW, model=model)(samples())
    padded = AnyModalityDataCollator(processor)(samples())
    assert len(packed["input_ids"]) < len(padded["input_ids"]) / 2 and packed["input_ids"].shape[1] <= ROW
    assert (packed["labels"] != -100).sum() == (padded["labels"] != -100).sum()
    assert_same(model, padded, packed)
    assert_same(model, padded, packed, num_items_in_batch=torch.tensor(97))
    model.eval()
    assert_same(model, padded, packed)


def test_flex_attention_keeps_to_samples_too():
    """Uncompiled, which takes a tenth of the time: the mask is what is tested."""
    model, processor = composite("llama")
    model.eval()
    collator = AnyModalityPackingCollator(processor, max_length=ROW, model=model)
    batch = collator(samples()[:4])
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = model(**batch).logits
        model.language_model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-4, rtol=1e-4)


def test_flash_attention_gets_one_row():
    """It tells samples apart in a single row only; the probe runs where there is no accelerator, too."""
    model, processor = composite("llama")
    model.language_model.config._attn_implementation = "flash_attention_2"
    collator = AnyModalityPackingCollator(processor, max_length=ROW, model=model)
    assert model.language_model.config._attn_implementation == "flash_attention_2"
    batch = collator(samples())
    padded = AnyModalityDataCollator(processor)(samples())
    assert batch["input_ids"].shape == (1, padded["attention_mask"].sum())
    model.language_model.config._attn_implementation = "sdpa"
    model.requires_grad_(True).train()
    assert_same(model, padded, batch)


@pytest.mark.parametrize("model_type", REFUSED)
def test_language_models_that_packing_would_change_are_refused_by_name(model_type):
    settings = {"image": tiny.modalities("image")["image"]}
    model, processor = tiny.composite(model_type, settings)
    with pytest.raises(ValueError, match=f"Packing is not exact for {type(model.language_model).__name__}"):
        AnyModalityPackingCollator(processor, max_length=ROW, model=model)
    assert not model.training


def test_a_routers_loss_is_refused():
    model, processor = composite("mixtral")
    check_packing(model, ROW)
    model.config.get_text_config().output_router_logits = True
    with pytest.raises(ValueError, match="its loss does not depend on labels alone"):
        check_packing(model, ROW)


@pytest.mark.parametrize("aligner", [{"type": "linear", "sum_neighbours": True}, {"type": "speech_interface"}])
def test_aligners_that_hide_places_are_refused_by_name(aligner):
    if aligner["type"] == "speech_interface":
        sizes = dict(token_size=8, bert_hidden_size=16, depth=1, num_heads=2, intermediate_size=16)
        settings = {"audio": {**tiny.modalities("audio")["audio"], "aligner": {**aligner, **sizes, "cif": {}}}}
    else:
        settings = {"image": {**tiny.modalities("image")["image"], "aligner": aligner, "num_tokens": 1}}
    model, processor = tiny.composite(settings=settings)
    with pytest.raises(ValueError, match=r"aligner of '(image|audio)'.*hides placeholders"):
        AnyModalityPackingCollator(processor, max_length=ROW, model=model)


def test_half_precision_is_told_from_a_leak():
    for model_type, exact in (("llama", True), ("mamba", False)):
        model, _ = tiny.composite(model_type, {"image": tiny.modalities("image")["image"]})
        model.to(torch.bfloat16)
        if exact:
            check_packing(model, ROW)
        else:
            with pytest.raises(ValueError, match="MambaForCausalLM"):
                check_packing(model, ROW)


def test_the_layout():
    model, processor = composite("llama")
    collator = AnyModalityPackingCollator(processor, max_length=ROW, model=model, pad_to_multiple_of=8)
    batch = collator(samples())
    padded = AnyModalityDataCollator(processor)(samples())
    lengths = padded["attention_mask"].sum(-1).tolist()
    assert set(batch) - set(padded) == {"position_ids"} and "attention_mask" not in batch
    assert batch["input_ids"].shape[1] % 8 == 0
    starts = batch["position_ids"] == 0
    assert (batch["labels"][starts] == -100).all()
    # Every sample is there once, whole, as it was; what is left is padding.
    found = []
    for ids, begins in zip(batch["input_ids"], starts, strict=True):
        places = [*begins.nonzero().squeeze(-1).tolist(), len(ids)]
        found += [tuple(ids[a:b].tolist()) for a, b in zip(places, places[1:], strict=False)]
    wanted = [tuple(ids[:n].tolist()) for ids, n in zip(padded["input_ids"], lengths, strict=True)]
    assert sorted(found, key=str)[-len(wanted) :] and all(row in found for row in wanted)
    assert all(set(row) == {processor.tokenizer.pad_token_id} for row in found if row not in wanted)


def test_first_fit():
    assert first_fit([5, 3, 7, 2, 8, 1], 10) == [[3, 4], [1, 2], [0, 5]]
    assert first_fit([], 4) == [] and first_fit([4, 4], 4) == [[0], [1]]


def test_rows_are_as_few_as_by_first_fit_and_of_nearly_the_same_length():
    assert plan_rows([6, 2, 2, 2], 10) == [[0], [1, 2, 3]]  # by first fit, of 10 and 2
    assert plan_rows([6, 6, 4, 4, 3], 12) == first_fit([6, 6, 4, 4, 3], 12) == [[0, 1], [2, 3, 4]]  # evenly, 13 and 10
    assert plan_rows([], 4) == [] and plan_rows([4, 4], 4) == [[0], [1]]
    lengths = torch.randint(1, 400, (500,), generator=torch.Generator().manual_seed(0)).tolist()
    packs, fitted = plan_rows(lengths, 512), first_fit(lengths, 512)
    assert len(packs) == len(fitted) and sorted(i for pack in packs for i in pack) == list(range(500))
    assert max(sum(lengths[i] for i in pack) for pack in packs) <= max(
        sum(lengths[i] for i in pack) for pack in fitted
    )


def test_a_features_store_may_be_packed(tmp_path):
    from transformers_anymodality.features import FeatureStore, build_features

    model, processor = composite("llama")
    set_trainable(model, "aligners", verbose=False)
    build_features(model, processor, samples(), tmp_path, verbose=False)
    store = FeatureStore(tmp_path, model)
    model.train()
    packed = AnyModalityPackingCollator(processor, max_length=ROW, model=model, features=store)(samples())
    assert "image_features" in packed and "pixel_values" not in packed
    assert_same(model, AnyModalityDataCollator(processor)(samples()), packed)


def test_trainer_learns_the_same(tmp_path):
    """Also with accumulation, whose parts have other numbers of labels."""
    weights = []
    for packing in (False, True):
        model, processor = composite("llama")
        set_trainable(model, "aligners", verbose=False)
        plain = AnyModalityDataCollator(processor, max_length=ROW)
        collator = AnyModalityPackingCollator(processor, max_length=ROW, model=model) if packing else plain
        arguments = TrainingArguments(
            str(tmp_path), max_steps=3, per_device_train_batch_size=4, gradient_accumulation_steps=2, use_cpu=True,
            remove_unused_columns=False, report_to="none", save_strategy="no", disable_tqdm=True, learning_rate=1e-3,
            optim="sgd", max_grad_norm=0,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=samples(), eval_dataset=samples(), data_collator=collator).train()
        weights.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)


def test_what_makes_no_sense():
    model, processor = composite("llama")
    with pytest.raises(ValueError, match="Packing needs max_length"):
        AnyModalityPackingCollator(processor, model=model)
    with pytest.raises(ValueError, match="pass `model`"):
        AnyModalityPackingCollator(processor, max_length=ROW)
    with pytest.raises(ValueError, match="max_length is 12"):
        AnyModalityPackingCollator(processor, max_length=12, model=model)(samples())
    dropping = AnyModalityPackingCollator(processor, max_length=20, model=model, on_overlong="drop")
    batch = dropping(samples())
    assert dropping.dropped and batch["input_ids"].shape[1] <= 20
