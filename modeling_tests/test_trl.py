"""TRL's trainers on a composite: its own way with images, and `with_media` for media of every modality."""

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch


pytest.importorskip("trl", minversion="1.16")

from datasets import Dataset  # noqa: E402
from torch.nn.functional import logsigmoid  # noqa: E402
from transformers import AutoModelForSequenceClassification  # noqa: E402

from modeling_tests import tiny  # noqa: E402
from modeling_tests.docs import block  # noqa: E402
from modeling_tests.trl_runs import KINDS, MEDIA, asks, changed, collator_of, records, says, trainer  # noqa: E402
from transformers_anymodality import lora_config, set_trainable  # noqa: E402


AS_INPUTS = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
SENSES = ("imu", "image", "audio")


pytestmark = pytest.mark.filterwarnings("ignore")


def several() -> list[list[dict]]:
    """Prompts that differ in their media: which, how many, and in which order."""
    return [asks("imu", "image"), asks("image", "image", "imu"), asks("image"), asks("imu", "imu", "audio", "image")]


def with_columns(record: dict, seed: int) -> dict:
    """The record with a medium for each of its bare parts, in columns."""
    columns = {tiny.ARGUMENTS[name]: [] for name in SENSES}
    for place, part in enumerate(record["prompt"][0]["content"]):
        if part["type"] != "text":
            columns[tiny.ARGUMENTS[part["type"]]].append(MEDIA[part["type"]](10 * seed + place))
    return {**record, **columns}


def _filled(record: dict) -> list[dict]:
    """The prompt with its media in their parts."""
    media = {name: iter(record[tiny.ARGUMENTS[name]]) for name in SENSES}
    content = [
        {"type": part["type"], part["type"]: next(media[part["type"]])} if part["type"] in media else part
        for part in record["prompt"][0]["content"]
    ]
    return [{"role": "user", "content": content}]


def log_probs(model, processor, record: dict, answer: str) -> torch.Tensor:
    """Of an answer's tokens, with what ends it, `(tokens,)`: one row, without TRL, without padding, without batch."""
    chat = _filled(record)
    asked = processor.apply_chat_template(chat, add_generation_prompt=True, **AS_INPUTS)["input_ids"].shape[1]
    inputs = processor.apply_chat_template([*chat, *says(answer)], **AS_INPUTS)
    logits = model(**inputs).logits[0, asked - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, inputs["input_ids"][0, asked:, None])[:, 0]


# --- what the losses read ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_loss_of_pairs_is_that_of_single_rows(tmp_path):
    """Padding, the place where an answer starts, and the order of media are exact; another medium is another loss."""
    model, processor = tiny.composite("llama", tiny.modalities(*SENSES))
    answers = [("yes", "no two"), ("two three four", "yes"), ("one", "two"), ("big small", "red green picture")]
    data = [
        with_columns({"prompt": prompt, "chosen": says(chosen), "rejected": says(rejected)}, i)
        for i, (prompt, (chosen, rejected)) in enumerate(zip(several(), answers, strict=True))
    ]
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(0.9)
    dpo = trainer(
        "DPO", model, processor, data, tmp_path, ref_model=reference, beta=0.5, per_device_train_batch_size=4
    )
    dpo.model.eval()

    def loss(rows: list[dict]) -> float:
        with torch.no_grad():
            return dpo.compute_loss(dpo.model, dict(dpo.data_collator(rows))).item()

    expected = []
    with torch.no_grad():
        for record, (chosen, rejected) in zip(data, answers, strict=True):
            ratios = [
                log_probs(model, processor, record, answer).sum()
                - log_probs(reference, processor, record, answer).sum()
                for answer in (chosen, rejected)
            ]
            expected.append(-logsigmoid(0.5 * (ratios[0] - ratios[1])).item())
    rows = list(dpo.train_dataset)
    assert [loss([row]) for row in rows] == pytest.approx(expected, rel=1e-5)
    assert loss(rows) == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert len({round(one, 4) for one in expected}) == 4
    for name in SENSES:
        column = tiny.ARGUMENTS[name]
        other = [{**rows[3], column: [MEDIA[name](99) for _ in rows[3][column]]}]
        assert abs(loss(other) - expected[3]) > 1e-4, name


@pytest.mark.parametrize("name", ["GRPO", pytest.param("RLOO", marks=pytest.mark.slow)])
def test_what_is_generated_is_scored_with_its_own_media(tmp_path, name):
    """In each slice of the generated batch, in shuffled order, each answer's tokens are as likely as in a row of its own."""
    model, processor = tiny.composite("llama", tiny.modalities(*SENSES))
    model.save_pretrained(tmp_path / "reference")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.5)  # so that the reference is another model
    model.config._name_or_path = str(tmp_path / "reference")
    set_trainable(model, "aligners", verbose=False)  # towers that are trained normalise over their batch
    data = [with_columns({"prompt": prompt}, i) for i, prompt in enumerate(several())]
    steps = {
        "steps_per_generation": 4,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
        "beta": 0.1,
    }
    online = trainer(name, model, processor, data, tmp_path, max_completion_length=3, **steps)
    model.train()
    online.current_gradient_accumulation_steps = 2  # which `train` sets
    online._prepare_inputs(next(iter(online.get_train_dataloader())))
    scored = []

    def spy(*args, usual=online._get_per_token_logps_and_entropies, **kwargs):
        scored.append(usual(*args, **kwargs))
        return scored[-1]

    online._get_per_token_logps_and_entropies = spy
    prompts = [
        processor.apply_chat_template(_filled(record), add_generation_prompt=True, **AS_INPUTS) for record in data
    ]
    found = set()
    for inputs in online._buffered_inputs:
        with torch.no_grad():
            online.compute_loss(model, inputs)
        for i, (ids, mask) in enumerate(zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)):
            own = ids[mask.bool()]
            which = next(k for k, prompt in enumerate(prompts) if torch.equal(prompt["input_ids"][0], own))
            found.add(which)
            answer = inputs["completion_ids"][i][inputs["completion_mask"][i].bool()]
            media = {key: value for key, value in prompts[which].items() if key not in ("input_ids", "attention_mask")}
            expected = []
            for chosen in (model, online.ref_model):
                with torch.no_grad():
                    logits = chosen(input_ids=torch.cat([own, answer])[None], **media).logits[0, len(own) - 1 : -1]
                expected.append(logits.log_softmax(-1).gather(1, answer[:, None])[:, 0])
            got = {"now": scored[-1][0][i, : len(answer)]}
            if name == "GRPO":
                got |= {key: inputs[f"{key}_per_token_logps"][i, : len(answer)] for key in ("old", "ref")}
            else:  # by whole answers; the reference is in the rewards
                got["old"], expected[0] = inputs["old_logps"][i], expected[0].sum()
                got["now"] = got["now"].sum()
            for key, value in got.items():
                torch.testing.assert_close(value, expected[key == "ref"], atol=2e-5, rtol=1e-4)
    assert found == {0, 1, 2, 3}


def by_row(model, batch: dict, prefix: str = "") -> list[float]:
    """The summed log-probability of what is to be learned, of each row of a batch."""
    own = ("input_ids", "attention_mask", "completion_mask", "labels", "label")
    media = {key: value for key, value in batch.items() if key.removeprefix("KL_") not in own}
    ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]
    learned = batch["labels"] >= 0 if "labels" in batch else batch[f"{prefix}completion_mask"] > 0
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, **media).logits[:, :-1].float()
    scores = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return (scores * learned[:, 1:]).sum(1).tolist()


def test_batches_hold_each_answer_with_its_own_media():
    """Prompts of other lengths, media in other orders: each row says what it says alone, also the pairs that KTO shifts."""
    model, processor = tiny.composite("llama", tiny.modalities(*SENSES))
    words = ["yes", "two three four", "one", "big small"]
    data = [with_columns({"prompt": prompt, "completion": says(words[i])}, i) for i, prompt in enumerate(several())]
    collator = collator_of(processor)
    with torch.no_grad():
        alone = [log_probs(model, processor, record, words[i]).sum().item() for i, record in enumerate(data)]
        shifted = [log_probs(model, processor, record, words[i - 1]).sum().item() for i, record in enumerate(data)]
    assert by_row(model, collator(data)) == pytest.approx(alone, rel=1e-5)
    unpaired = collator([{**record, "label": i < 2} for i, record in enumerate(data)])
    assert unpaired["label"].tolist() == [True, True, False, False]
    assert by_row(model, unpaired) == pytest.approx(alone, rel=1e-5)
    assert by_row(model, unpaired, "KL_") == pytest.approx(shifted, rel=1e-5)


@pytest.mark.parametrize(
    "kind", ["messages", "pair", *[pytest.param(one, marks=pytest.mark.slow) for one in ("completion", "label")]]
)
@pytest.mark.parametrize("plain", [False, True], ids=["parts", "strings"])
def test_batches_of_images_are_those_of_trl(kind, plain):
    """Also where all words are learned; but TRL lets placeholders be learned, too."""
    from trl.trainer import dpo_trainer, kto_trainer, sft_trainer

    _, processor = tiny.composite("llama", tiny.modalities("image"))
    theirs = {
        "messages": sft_trainer.DataCollatorForVisionLanguageModeling(processor),
        "completion": sft_trainer.DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True),
        "pair": dpo_trainer.DataCollatorForVisionPreference(processor),
        "label": kto_trainer.DataCollatorForVisionUnpairedPreference(processor),
    }[kind]
    data = records(kind, "image", "image", plain=plain)
    batch, expected = collator_of(processor)(data), theirs([dict(record) for record in data])
    assert batch.keys() == {*expected.keys(), *(["label"] if kind == "label" else [])}
    for name, value in expected.items():
        if name == "labels":
            value = value.masked_fill(torch.isin(value, torch.tensor(processor.image_token_id)), -100)
        if name == "input_ids":  # TRL fills up with the end token where the padding token is id 0
            value = value.masked_fill(expected["attention_mask"] == 0, processor.tokenizer.pad_token_id)
        torch.testing.assert_close(batch[name], torch.as_tensor(value).to(batch[name].dtype), msg=name)


def test_a_prompt_may_be_in_both_answers():
    _, processor = tiny.composite("llama", tiny.modalities("imu"))
    apart = records("pair", "imu", count=2)
    whole = [
        {**row, "chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]} for row in apart
    ]
    whole = [{name: value for name, value in row.items() if name != "prompt"} for row in whole]
    expected, batch = (collator_of(processor)(rows) for rows in (apart, whole))
    assert expected.keys() == batch.keys() and all(torch.equal(expected[name], batch[name]) for name in batch)
    asked = [{"role": "user", "content": [{"type": "imu", "imu": tiny.medium("imu", 1)}]}]
    other = {"chosen": [*asked, *says("yes")], "rejected": [*asks(), *says("yes")]}  # nothing is the same
    batch = collator_of(processor)([other])
    assert len(batch["imu_values"]) == 1 and (batch["completion_mask"].sum(-1) > 3).all()


def test_what_is_not_a_chat_or_cuts_a_medium_is_refused():
    _, processor = tiny.composite("llama", tiny.modalities("imu"))
    collator = collator_of(processor)
    with pytest.raises(ValueError, match="Record 0 is not a chat.*lists of messages"):
        collator([{"prompt": "what is this ?", "chosen": "yes", "rejected": "no"}])
    (record,) = records("completion", "imu", count=1)
    with pytest.raises(ValueError, match="1 .* placeholders, but 0 media of 'imu'"):
        collator([{**record, "imu": []}])
    short = collator_of(processor, max_length=8)
    assert short([record])["input_ids"].shape == (1, 8)
    with pytest.raises(ValueError, match="Row 0 has 14 tokens; truncation to max_length=4 would cut a medium"):
        collator_of(processor, max_length=4)([record])


# --- trainers ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("modalities", [("image",), ("imu", "audio")], ids=["images, stock", "imu and audio"])
@pytest.mark.parametrize("name", KINDS)
def test_each_trainer_trains_every_part(tmp_path, name, modalities):
    model, processor = tiny.composite("llama", tiny.modalities(*modalities))
    model.save_pretrained(tmp_path / "model")  # TRL loads what it compares with
    model.config._name_or_path = str(tmp_path / "model")
    before = copy.deepcopy(model.state_dict())
    data = records(KINDS[name], *modalities)
    run = trainer(name, model, processor, data, tmp_path, stock=modalities == ("image",))
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    parts = {name.split(".")[0] for name in changed(model, before)}
    assert parts == {*(f"{name}_{part}" for name in modalities for part in ("tower", "aligner")), "language_model"}


@pytest.mark.slow
def test_a_reward_model_sees_media(tmp_path):
    """Rewards of a batch are those of single rows; another medium is worth something else; what is saved is what was."""
    causal, processor = tiny.composite("llama", tiny.modalities(*SENSES))
    causal.save_pretrained(tmp_path / "causal")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "causal", num_labels=1)
    data = [
        with_columns({"prompt": prompt, "chosen": says("yes"), "rejected": says("no two"), "margin": 0.1}, i)
        for i, prompt in enumerate(several())
    ]
    run = trainer("Reward", model, processor, data, tmp_path)
    assert not any(p.isnan().any() for p in model.parameters()) and model.score.weight.std() > 0
    before = copy.deepcopy(model.state_dict())
    run.train()
    parts = {name.split(".")[0] for name in changed(model, before)}
    assert parts == {
        *(f"{name}_{part}" for name in SENSES for part in ("tower", "aligner")),
        "language_model",
        "score",
    }
    model.eval().save_pretrained(tmp_path / "reward")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    assert again.config.num_labels == 1

    def rewards(rows: list[dict]) -> list[float]:
        batch = run.data_collator(rows)
        del batch["completion_mask"], batch["margin"]
        with torch.no_grad():
            return again(**batch).logits[:, 0].tolist()

    rows = list(run.train_dataset)
    singles = [rewards([row]) for row in rows]
    assert rewards(rows) == pytest.approx(
        [one[0] for one in singles] + [one[1] for one in singles], rel=1e-4, abs=1e-5
    )
    for name in SENSES:
        column = tiny.ARGUMENTS[name]
        other = {**rows[3], column: [MEDIA[name](99) for _ in rows[3][column]]}
        assert abs(rewards([other])[0] - singles[3][0]) > 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("SFT", {"packing": True}, "Packing is not supported for vision datasets"),
        ("SFT", {"truncation_mode": "keep_end"}, "truncation_mode='keep_end' is not supported"),
        ("DPO", {"precompute_ref_log_probs": True}, "precompute_ref_log_probs=True` is not supported"),
        ("GRPO", {"rollout_func": lambda prompts, trainer: {}}, "does not work with rollout_func"),
    ],
)
def test_what_trl_refuses_of_images_it_refuses_of_all_media(tmp_path, name, settings, words):
    model, processor = tiny.composite("llama", tiny.modalities("imu"))
    with pytest.raises(ValueError, match=words):
        trainer(name, model, processor, records(KINDS[name], "imu"), tmp_path, **settings)


@pytest.mark.slow
def test_a_composite_as_reward_model_is_refused(tmp_path):
    model, processor = tiny.composite("llama", tiny.modalities("imu"))
    model.save_pretrained(tmp_path / "rewards", processor=processor)
    with pytest.raises(ValueError, match="composite is in `reward_funcs`"):
        trainer("GRPO", model, processor, records("prompt", "imu"), tmp_path, reward_funcs=str(tmp_path / "rewards"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "modalities", "settings"),
    [
        ("GRPO", ("imu",), {"beta": 0.1, "num_iterations": 2, "gradient_checkpointing": True, "adapter": True}),
        ("GRPO", ("audio", "image"), {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
        ("GRPO", (), {"mask_truncated_completions": True}),
        ("GRPO", ("imu",), {"stream": True}),
        ("RLOO", ("imu",), {"adapter": True}),
        ("DPO", ("imu",), {"gradient_checkpointing": True, "adapter": True}),
        ("DPO", ("audio",), {"stream": True, "adapter": True}),
        ("KTO", ("imu",), {"adapter": True}),
        ("SFT", ("imu",), {"stream": True}),
    ],
)
def test_adapters_streams_and_evaluation(tmp_path, name, modalities, settings):
    """And batches without media, or where a record has none."""
    model, processor = tiny.composite("gpt2", tiny.modalities(*(modalities or ("imu",))))
    data, settings = records(KINDS[name], *modalities), dict(settings)
    if modalities == ("imu",) and name == "GRPO":
        data[3] = {"prompt": asks(), "imu": []}
    if settings.pop("adapter", False):
        settings["peft_config"] = lora_config(model, r=2)
    whole = Dataset.from_list(data)
    stream = whole.to_iterable_dataset() if settings.pop("stream", False) else whole
    more = {"eval_dataset": whole, "per_device_eval_batch_size": 4}
    run = trainer(name, model, processor, stream, tmp_path, **more, **settings)
    before = copy.deepcopy(model.state_dict())
    run.train()
    assert changed(model, before)
    assert math.isfinite(run.evaluate()["eval_loss"])


@pytest.mark.slow
def test_what_the_documentation_runs(tmp_path):
    for part in tiny.composite("llama", tiny.modalities("image", "imu")):
        part.save_pretrained(tmp_path / "my-model")
    walk = np.column_stack([np.arange(40) / 32, tiny.medium("imu")])
    np.savetxt(tmp_path / "walk.csv", walk, delimiter=",", comments="", header="time,ax,ay,az,gx,gy,gz")
    (tmp_path / "script.py").write_text(block("tuning.md", "with_media"))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("train_runtime") == 3
