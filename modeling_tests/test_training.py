"""Training by the stock Trainer and PEFT: what is trained is saved, and what is resumed is as if never stopped."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoProcessor, Trainer

from modeling_tests import tiny, tiny_systems
from modeling_tests.checks import last_logits
from modeling_tests.training_runs import samples, trainer
from transformers_anymodality import lora_config, parts_table, set_trainable
from transformers_anymodality.model import dummy_items
from transformers_anymodality.training.parts import parameter_groups
from transformers_anymodality.utils.upstream import CHECKPOINTING


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def frozen(model):
    """Torch multiplies in another order where weights want gradients, which some processors round otherwise."""
    return model.requires_grad_(False)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trains_evaluates_saves_and_reloads(tmp_path, checkpointing):
    model, processor = tiny.composite()
    set_trainable(model, "aligners", verbose=False)
    before = weights(model)
    run = trainer(model, processor, tmp_path, **{CHECKPOINTING: checkpointing}, max_steps=30)
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert torch.isfinite(torch.tensor(run.evaluate()["eval_loss"]))
    changed = {name.split(".")[0] for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == {"image_aligner", "audio_aligner", "imu_aligner"}
    run.save_model(tmp_path / "final")
    again, processor_again = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "final"),
        AutoProcessor.from_pretrained(tmp_path / "final"),
    )
    chats = [sample["messages"][:1] for sample in samples(4)]
    assert torch.equal(
        last_logits(frozen(model.eval()), tiny.inputs(processor, *chats)),
        last_logits(frozen(again), tiny.inputs(processor_again, *chats)),
    )


def test_resumed_equals_uninterrupted(tmp_path):
    def run(folder, **kwargs):
        model, processor = tiny.composite()
        set_trainable(model, ["aligners", "language_model"], verbose=False)
        return trainer(model, processor, folder, save_strategy="steps", save_steps=2, max_steps=4, **kwargs)

    whole = run(tmp_path / "whole")
    whole.train()
    resumed = run(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in weights(whole.model).items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_removed_columns_say_what_to_set(tmp_path):
    model, processor = tiny.composite()
    run = trainer(model, processor, tmp_path)
    run.args.remove_unused_columns = True
    with pytest.raises(ValueError, match="remove_unused_columns=False|No columns"):
        run.train()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bloom", "mixtral", "mamba"])
def test_lora_hits_the_language_model_only_and_saves_the_aligners(tmp_path, model_type):
    model, processor = tiny.composite(model_type)
    base = tmp_path / "base"
    model.save_pretrained(base)
    inputs = tiny.inputs(processor, *(sample["messages"][:1] for sample in samples(4)))
    untouched = last_logits(model, inputs)
    adapted = get_peft_model(model, lora_config(model, r=4, init_lora_weights=False))
    assert {
        name.split("base_model.model.")[1].split(".")[0] for name, _ in adapted.named_parameters() if "lora_" in name
    } == {"language_model"}
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "_aligner.modules_to_save" in name for name in trained)
    run = trainer(adapted, processor, tmp_path / "out", max_steps=3)
    run.train()
    adapted.eval()
    expected = last_logits(adapted, inputs)
    assert (expected - untouched).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    torch.testing.assert_close(last_logits(again, inputs), expected, atol=1e-6, rtol=1e-5)
    merged = again.merge_and_unload()
    torch.testing.assert_close(last_logits(merged, inputs), expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(last_logits(frozen(plain), inputs), last_logits(frozen(merged), inputs))


def test_lora_in_a_tower_gets_its_gradient():
    model, processor = tiny.composite()
    config = lora_config(model, r=2)
    config.target_modules = r"image_tower\..*\.(q_proj|v_proj)"
    adapted = get_peft_model(model, config)
    inputs = tiny.inputs(processor, tiny.chat("image", "what ?"))
    adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    assert gradients and all(g is not None and g.abs().sum() > 0 for g in gradients)


def test_the_table_and_wrong_names(capsys):
    model, _ = tiny.composite()
    table = set_trainable(model, ["image_aligner", "language_model"])
    assert capsys.readouterr().out.strip() == table.strip() == parts_table(model).strip()
    lines = {line.split()[0]: line.split() for line in table.splitlines()[1:]}
    assert set(lines) == set(model.part_names)
    assert lines["image_aligner"][1] == lines["image_aligner"][2] != "0" and lines["image_tower"][2] == "0"
    with pytest.raises(ValueError, match="Did you mean 'aligners'"):
        set_trainable(model, "aligner")


def test_parts_within_parts_are_trained():
    model, _ = tiny.composite()
    set_trainable(model, ["image_aligner.projection", "audio_aligner"], verbose=False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("image_aligner.projection.", "audio_aligner."))
    }
    assert "image_aligner.projection.weight" in trained
    with pytest.raises(ValueError, match="Did you mean 'image_aligner.projection'"):
        set_trainable(model, "image_aligner.projektion")


def test_parameter_groups_have_rates_of_their_own_and_decay_as_the_trainer_does(tmp_path):
    model, processor = tiny.composite()
    set_trainable(model, ["aligners", "image_tower", "language_model"], verbose=False)
    rates = {"aligners": 1e-3, "image_aligner": "2e-3", "language_model.model.layers.0": 1e-5}
    groups = parameter_groups(model, rates, weight_decay=0.1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[p]: (group.get("lr"), group["weight_decay"]) for group in groups for p in group["params"]}
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    decayed = set(trainer(model, processor, tmp_path).get_decay_parameter_names(model))
    for name, (rate, decay) in found.items():
        expected = next((r for part, r in list(rates.items())[1:] if name.startswith(f"{part}.")), None)
        if expected is None and "_aligner." in name:
            expected = rates["aligners"]
        assert rate == (None if expected is None else float(expected)), name
        assert decay == (0.1 if name in decayed else 0.0), name
    with pytest.raises(ValueError, match="audio_tower, but these are frozen"):
        parameter_groups(model, {"audio_tower": 1e-3})
    with pytest.raises(ValueError, match="Did you mean 'aligners'"):
        parameter_groups(model, {"aligner": 1e-3})


def test_the_trainer_takes_parameter_groups(tmp_path):
    model, processor = tiny.composite()
    set_trainable(model, ["aligners", "language_model"], verbose=False)
    run = trainer(model, processor, tmp_path, lr_scheduler_type="linear", weight_decay=0.1)
    optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(run.args, model)
    settings["params"] = parameter_groups(model, {"aligners": 1e-4}, run.args.weight_decay)
    run.optimizer_cls_and_kwargs = (optimizer, settings)
    run.train()
    assert [group["initial_lr"] for group in run.optimizer.param_groups] == [1e-4, 1e-4, 1e-2, 1e-2]
    assert sorted(group["weight_decay"] for group in run.optimizer.param_groups) == [0, 0, 0.1, 0.1]


@pytest.mark.parametrize(("name", "shared"), [("x_llm", "qformer_layers"), ("macaw_llm", "align_attention")])
def test_what_aligners_share_stays_shared_beside_lora(tmp_path, name, shared):
    """PEFT trains a copy of each aligner; theirs of what is shared must be one, trained, saved and merged as one."""
    model, _ = tiny_systems.system(name)
    model.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, lora_config(model, r=2))

    def lent(model, modality):
        aligner = model.aligner(modality)
        return getattr(aligner, "modules_to_save", {"default": aligner})["default"].get_submodule(shared)

    assert lent(model, "image") is lent(model, "video")
    assert all(p.requires_grad for p in lent(model, "image").parameters())
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in adapted.state_dict().items())
    merged = again.merge_and_unload()
    assert lent(merged, "image") is lent(merged, "video")
    merged.save_pretrained(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert all(torch.equal(value, plain[key]) for key, value in merged.state_dict().items())


def test_no_senses_is_still_a_language_model(tmp_path):
    model, processor = tiny.composite(settings={"image": tiny.modalities("image")["image"]})
    inputs = tiny.inputs(processor, tiny.chat("what is this ?"))
    expected = model.language_model(**inputs).logits
    assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("trained", [["aligners"], ["aligners", "image_tower", "language_model"]])
def test_a_batch_without_media_runs_the_language_model_alone(trained):
    """In one process, where nobody waits for the other parts, which get the gradients of a dummy item: zeros."""
    model, _ = tiny.composite("llama", tiny.modalities("image", "video"))
    set_trainable(model, trained, verbose=False)
    ran, ids = [], torch.tensor([[4, 5, 6, 7]])
    for name, part in model.named_children():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert ran == ["language_model"]
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    assert not any(weight.grad.any() for weight in model.image_aligner.parameters())


def test_beside_other_processes_all_that_is_trained_gets_a_gradient(monkeypatch):
    """Of the smallest item: of a video, one frame."""
    monkeypatch.setattr(dummy_items, "is_among_others", lambda: True)
    model, _ = tiny.composite("llama", tiny.modalities("image", "video"))
    set_trainable(model, ["aligners", "image_tower"], verbose=False)
    frames, ids = [], torch.tensor([[4, 5, 6, 7]])
    model.image_tower.register_forward_pre_hook(
        lambda _, __, given: frames.append(len(given["pixel_values"])), with_kwargs=True
    )
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert frames == [1, 1]
    lacking = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not lacking
