"""`predict_with_generate` of Seq2SeqTrainer: answers are generated from training batches."""

import runpy
from pathlib import Path

import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from modeling_tests import tiny
from modeling_tests.docs import block
from modeling_tests.training_runs import samples
from transformers_anymodality import AnyModalityDataCollator


def test_predictions_are_the_answers_to_the_questions(tmp_path):
    model, processor = tiny.composite(settings=tiny.modalities("image", "audio", "imu"))
    model.generation_config.update(max_new_tokens=4, eos_token_id=None)
    chats = samples(4)
    told = []
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        per_device_eval_batch_size=4,
        predict_with_generate=True,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        eval_dataset=chats,
        data_collator=AnyModalityDataCollator(processor),
        processing_class=processor,
        compute_metrics=lambda results: told.append(results) or {},
    )
    metrics = trainer.evaluate()
    (results,) = told
    for chat, row, labels in zip(chats, results.predictions, results.label_ids, strict=True):
        question, answer = chat["messages"][:-1], chat["messages"][-1]["content"]
        inputs = tiny.inputs(processor, question)
        alone = model.generate(**inputs, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert row[:4].tolist() == alone.tolist()
        assert processor.decode(labels[labels > 0], skip_special_tokens=True).strip() == answer
    with torch.no_grad():
        batch = AnyModalityDataCollator(processor)(chats)
        assert abs(metrics["eval_loss"] - model(**batch).loss.item()) < 1e-5


def test_the_last_answer_of_several_is_generated():
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    model.generation_config.update(max_new_tokens=3, eos_token_id=None)
    chat = [*tiny.chat("image", "what ?", answer="two"), *tiny.chat("and that ?", answer="one")]
    batch = AnyModalityDataCollator(processor)([{"messages": chat}, samples(1)[0]])
    said = model.generate(**batch, do_sample=False)
    assert said.shape == (2, 3)
    for row, messages in zip(said, (chat[:-1], samples(1)[0]["messages"][:-1]), strict=True):
        inputs = tiny.inputs(processor, messages)
        assert row.tolist() == model.generate(**inputs, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    output = model.generate(**batch, do_sample=False, return_dict_in_generate=True)
    assert output.sequences.tolist() == said.tolist()


def test_the_block_of_the_docs_runs(tmp_path, monkeypatch, capsys):
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    model.save_pretrained(tmp_path / "aligned", processor=processor)
    monkeypatch.chdir(tmp_path)
    Path("block.py").write_text(block("train.md", "predict_with_generate"))
    runpy.run_path("block.py")
    assert capsys.readouterr().out.strip().splitlines()[-1] in ("0.0", "1.0")
