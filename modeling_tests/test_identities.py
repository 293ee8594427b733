"""Identities that must hold exactly, whatever the language model and the media."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor

from modeling_tests import tiny
from modeling_tests.checks import TIGHT, last_logits


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model_type", tiny.LANGUAGE_MODELS)
def test_batched_equals_one_by_one(model_type, side):
    if model_type == "mamba" and side == "right":
        pytest.skip("the last real token of a right-padded row is not the last state of a recurrent model's scan")
    model, processor = tiny.composite(model_type)
    together = last_logits(model, tiny.inputs(processor, *tiny.CHATS, processor_kwargs={"padding_side": side}))
    alone = torch.cat([last_logits(model, tiny.inputs(processor, chat)) for chat in tiny.CHATS])
    torch.testing.assert_close(together, alone, **TIGHT)
    assert (alone[0] - alone[1]).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", tiny.LANGUAGE_MODELS)
def test_media_matter_and_only_to_their_own_row(model_type):
    model, processor = tiny.composite(model_type)
    first = last_logits(model, tiny.inputs(processor, tiny.CHATS[0], tiny.CHATS[2]))
    other = last_logits(model, tiny.inputs(processor, tiny.chat("image", "what is this ?", seed=9), tiny.CHATS[2]))
    assert (first[0] - other[0]).abs().max() > 1e-4
    torch.testing.assert_close(first[1], other[1], **TIGHT)


@pytest.mark.parametrize("model_type", tiny.LANGUAGE_MODELS)
def test_reloaded_equals_saved(model_type, tmp_path):
    model, processor = tiny.composite(model_type)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = AutoModelForCausalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    inputs, inputs_again = tiny.inputs(processor, *tiny.CHATS), tiny.inputs(processor_again, *tiny.CHATS)
    assert {k: v.tolist() for k, v in inputs.items()} == {k: v.tolist() for k, v in inputs_again.items()}
    assert torch.equal(last_logits(model, inputs), last_logits(again, inputs_again))


@pytest.mark.parametrize("model_type", tiny.LANGUAGE_MODELS)
def test_logits_of_supervised_positions_give_the_same_loss_and_gradients(model_type):
    """Where the loss alone is asked for, logits are computed where labels are; the loss must not notice."""
    model, processor = tiny.composite(model_type)
    model.requires_grad_(True).train()
    inputs = tiny.inputs(processor, *tiny.CHATS)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, -3:], labels[2, -5:-2] = inputs["input_ids"][0, -3:], inputs["input_ids"][2, -5:-2]
    torch.manual_seed(0)  # dropout
    sliced = model(**inputs, labels=labels, skip_logits=True)
    sliced.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.manual_seed(0)
    whole = model(**inputs, labels=labels)
    whole.loss.backward()
    torch.testing.assert_close(sliced.loss, whole.loss, **TIGHT)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                gradients[name], parameter.grad, **TIGHT, msg=lambda m, name=name: f"{name}: {m}"
            )
    assert any(g.abs().max() > 0 for name, g in gradients.items() if "_aligner" in name)


def test_gradient_accumulation_equals_one_batch():
    """With unequal numbers of labels, `num_items_in_batch` makes the sum right."""
    model, processor = tiny.composite()
    model.requires_grad_(True)
    rows = [tiny.inputs(processor, chat) for chat in tiny.CHATS]
    labels = []
    for i, row in enumerate(rows):
        labels.append(torch.full_like(row["input_ids"], -100))
        labels[-1][:, -1 - i :] = row["input_ids"][:, -1 - i :]
    total = sum(int((label != -100).sum()) for label in labels)
    model.train()
    for row, label in zip(rows, labels, strict=True):
        model(**row, labels=label, num_items_in_batch=total).loss.backward()
    accumulated = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    batch = tiny.inputs(processor, *tiny.CHATS)
    length = batch["input_ids"].shape[1]
    padded = torch.cat([torch.nn.functional.pad(label, (length - label.shape[1], 0), value=-100) for label in labels])
    model(**batch, labels=padded, num_items_in_batch=total).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(accumulated[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_frozen_parts_do_not_change_and_stay_in_eval_mode():
    from transformers_anymodality import set_trainable

    model, processor = tiny.composite()
    set_trainable(model, "aligners", verbose=False)
    before = copy.deepcopy(model.state_dict())
    model.train()
    assert not model.image_tower.training and not model.audio_tower.training and model.language_model.training
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    inputs = tiny.inputs(processor, *tiny.CHATS)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    changed = {
        name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {name for name, _ in model.named_children() if name.endswith("_aligner")}


def test_frozen_towers_keep_no_gradient_graph_and_trainable_ones_do():
    from transformers_anymodality import set_trainable

    model, processor = tiny.composite()
    inputs = tiny.inputs(processor, tiny.CHATS[0])
    set_trainable(model, "aligners", verbose=False)
    assert not model.get_modality_features("image", inputs["pixel_values"]).last_hidden_state.requires_grad
    set_trainable(model, ["aligners", "image_tower"], verbose=False)
    assert model.get_modality_features("image", inputs["pixel_values"]).last_hidden_state.requires_grad


@pytest.mark.parametrize("given", ["features", "tokens"])
def test_features_instead_of_media(shared, given):
    model, processor = shared
    inputs = tiny.inputs(processor, *tiny.CHATS)
    expected = last_logits(model, inputs)
    encoded = model.get_modality_features("image", inputs["pixel_values"])
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    if given == "features":
        rest["image_features"] = encoded.last_hidden_state
    else:
        rest["mm_encoder_outputs"] = {"image": encoded.pooler_output}
    assert torch.equal(last_logits(model, rest), expected)


@pytest.mark.parametrize("tower", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("language", [torch.float32, torch.bfloat16])
def test_each_part_computes_in_its_own_dtype(tower, language):
    model, processor = tiny.composite()
    for name, part in model.named_children():
        part.to(language if name == "language_model" else tower)
    output = model(**tiny.inputs(processor, *tiny.CHATS))
    assert output.logits.dtype == language and torch.isfinite(output.logits).all()
