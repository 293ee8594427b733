"""PandaGPT against its own code: ImageBind, sums, prompts piece by piece, logits, loss, greedy answers."""

import pytest
import torch
from transformers import AutoProcessor

from transformers_anymodality import AnyModalityDataCollator
from transformers_anymodality.conversion import convert


@pytest.mark.parametrize("merge", [False, True])
def test_every_recorded_tensor(recording, converted, merge):
    rec = recording("pandagpt")
    rec.replay("pandagpt", converted("pandagpt", rec.folder, merge=merge))
    rec.finish()


def test_prompts_token_by_token(recording, tmp_path):
    rec = recording("pandagpt")
    if not (rec.folder / "tokenizer.json").is_file():
        pytest.skip("recorded without a tokenizer")
    convert("pandagpt", rec.folder, tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    media = {"type": "image", "image": torch.zeros(3, 60, 70)}
    start = [rec.config["tokenizer"]["bos"], *rec.inputs["prompt_start_ids"][0].tolist(), processor.image_token_id]
    demo = [{"role": "user", "content": [media, {"type": "text", "text": rec.config["demo_prompt"]}]}]
    inputs = processor.apply_chat_template(demo, tokenize=True, return_dict=True, add_generation_prompt=True)
    assert inputs["input_ids"][0] == [*start, *rec.inputs["demo.prompt_ids"][0].tolist()]
    collator = AnyModalityDataCollator(processor)
    padding = rec.config["tokenizer"]["eos"]
    for row, conversation in enumerate(rec.config["conversations"]):
        messages = [
            {"role": "user" if turn["from"] == "human" else "assistant", "content": turn["value"]}
            for turn in conversation
        ]
        messages[0]["content"] = [media, {"type": "text", "text": messages[0]["content"]}]
        batch = collator([{"messages": messages}])
        ids, labels = (batch[name][0].tolist()[len(start) :] for name in ("input_ids", "labels"))
        assert batch["input_ids"][0].tolist()[: len(start)] == start
        assert set(batch["labels"][0].tolist()[: len(start)]) == {-100}
        # Recorded are rows of one length: shorter ones are filled up, longer ones are cut.
        length = rec.inputs["train.input_ids"].shape[1]
        filled = length - len(ids)
        assert (ids + [padding] * filled)[:length] == rec.inputs["train.input_ids"][row].tolist()
        assert (labels + [-100] * filled)[:length] == rec.inputs["train.target_ids"][row].tolist()
