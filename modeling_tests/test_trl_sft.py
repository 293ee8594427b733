"""TRL's SFTTrainer on a composite, in every setting that it has, by images and by what it does not know."""

import copy

import pytest
import torch


pytest.importorskip("trl", minversion="1.16")

from datasets import Dataset  # noqa: E402
from transformers import Trainer, TrainingArguments  # noqa: E402

from modeling_tests import tiny  # noqa: E402
from modeling_tests.trl_runs import changed, records, trainer  # noqa: E402
from transformers_anymodality import AnyModalityDataCollator, lora_config, set_trainable  # noqa: E402


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def token_accuracy(prediction) -> dict[str, float]:
    """Reads whole logits `(rows, sequence, vocabulary)`."""
    right = (prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:])[
        prediction.label_ids[:, 1:] >= 0
    ]
    return {"token_accuracy": float(right.mean())}


# Name -> kind of records, whether they are strings, the language model, arguments of the trainer and its config.
SETTINGS = {
    "parts": ("messages", False, "llama", {}),
    "strings": ("messages", True, "llama", {}),
    "completion": ("completion", False, "llama", {}),
    "completion, strings": ("completion", True, "gpt2", {}),
    "whole chats": ("completion", True, "llama", {"completion_only_loss": False}),
    "gpt2": ("messages", False, "gpt2", {}),
    "assistant only": ("messages", False, "llama", {"assistant_only_loss": True}),
    "max_length": ("messages", False, "llama", {"max_length": 13}),
    "checkpointing": ("messages", False, "llama", {"gradient_checkpointing": True}),
    "dft": ("messages", False, "llama", {"loss_type": "dft"}),
    "label smoothing": ("messages", False, "llama", {"label_smoothing_factor": 0.1}),
    "adapter": ("messages", False, "llama", {"peft_config": True, "gradient_checkpointing": True}),
    "metrics": ("messages", False, "llama", {"compute_metrics": token_accuracy, "eval_dataset": True}),
    "accumulation": ("messages", False, "llama", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}),
}


@pytest.mark.parametrize("modality", ["image", "imu"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_sft_in_every_setting(tmp_path, setting, modality):
    """Images on TRL's own way, IMU by `with_media`: the loss is that of the Trainer's own forward, and falls."""
    kind, plain, language, given = SETTINGS[setting]
    model, processor = tiny.composite(language, tiny.modalities(modality))
    set_trainable(model, ["aligners", "language_model"], verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # GPT-2's
            module.p = 0.0
    data, given = records(kind, modality, plain=plain), dict(given)
    if given.pop("peft_config", None):
        given["peft_config"] = lora_config(model, r=2)
    if given.pop("eval_dataset", None):
        given["eval_dataset"] = Dataset.from_list(data[:3])
    run = trainer("SFT", model, processor, data, tmp_path, stock=modality == "image", max_steps=4, **given)
    rows = next(iter(run.get_train_dataloader()))
    with torch.no_grad():
        expected = run.model(**rows).loss.item()
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] or setting == "dft"  # whose weights are the probabilities themselves
    if setting not in ("dft", "label smoothing", "accumulation"):
        assert losses[0] == pytest.approx(expected, rel=1e-4)
    if setting == "metrics":
        assert 0 <= run.evaluate()["eval_token_accuracy"] <= 1


@pytest.mark.parametrize("packing", [False, True])
def test_sft_on_text_alone(tmp_path, packing):
    """Packed rows give the loss of padded ones."""
    model, processor = tiny.composite("llama", tiny.modalities("image"))
    data = records("messages", count=4)
    padded = trainer("SFT", model, processor, data, tmp_path, stock=True, per_device_train_batch_size=4)
    with torch.no_grad():
        expected = padded.compute_loss(model, dict(next(iter(padded.get_train_dataloader())))).item()
    own = {"packing": True, "max_length": 64, "max_steps": 1} if packing else {"per_device_train_batch_size": 4}
    run = trainer("SFT", model, processor, data, tmp_path, stock=True, **own)
    before = copy.deepcopy(model.state_dict())
    run.train()
    assert run.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert {name.split(".")[0] for name in changed(model, before)} == {"language_model"}


@pytest.mark.parametrize("adapter", [False, True])
def test_sft_takes_our_collator(tmp_path, adapter):
    """The stock trainer with the collator of the stock Trainer, whose batches tell that logits may be skipped."""
    model, processor = tiny.composite("llama", tiny.modalities("imu", "audio"))
    set_trainable(model, "aligners", verbose=False)
    data, collator = records("messages", "imu", "audio"), AnyModalityDataCollator(processor)
    settings = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
    settings |= {"peft_config": lora_config(model, r=2)} if adapter else {}
    run = trainer("SFT", model, processor, data, tmp_path, stock=True, data_collator=collator, **settings)
    rows = next(iter(run.get_train_dataloader()))
    assert rows["skip_logits"].all()
    with torch.no_grad():
        expected = run.model(**rows).loss.item()
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(expected, rel=1e-5) and losses[1] < losses[0]


def test_whose_own_losses_read_logits_beside_labels(tmp_path):
    """TRL before 1.16 measured accuracy on the output of the Trainer's own loss: `skip_logits=False`. Others need nothing."""
    model, processor = tiny.composite("llama", tiny.modalities("imu"))
    shapes = []

    def loss(outputs, labels, num_items_in_batch=None):
        shapes.append((outputs.logits.shape[:2], labels.shape))
        return outputs.logits.float().log_softmax(-1)[..., 0].mean()

    class Older(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            found, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            shapes.append((outputs.logits.shape[:2], inputs["labels"].shape))
            return (found, outputs) if return_outputs else found

    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, report_to="none", use_cpu=True, remove_unused_columns=False, disable_tqdm=True
    )
    data, collator = records("messages", "imu"), AnyModalityDataCollator(processor)
    Older(model, arguments, AnyModalityDataCollator(processor, skip_logits=False), data).train()
    Trainer(model, arguments, collator, data, compute_loss_func=loss).train()
    settings = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False, "max_steps": 1}
    run = trainer("SFT", model, processor, data, tmp_path, stock=True, data_collator=collator, **settings)
    run.compute_loss_func = loss
    run.train()
    assert len(shapes) == 3 and all(logits == labels for logits, labels in shapes)
