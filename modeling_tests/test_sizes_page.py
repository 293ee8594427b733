"""The call of docs/sizes.md, with tiny versions of its parts: composed, loaded in another process, trained, evaluated, served."""

import base64
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from PIL import Image
from transformers import Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLModel

from modeling_tests import any_size
from modeling_tests.docs import blocks
from modeling_tests.hub_cache import publish, publish_documented
from modeling_tests.process_runs import processes


TRAIN = """
import json
import document
from transformers import AutoModelForCausalLM, AutoProcessor, Trainer, TrainingArguments
from transformers_anymodality import AnyModalityDataCollator, set_trainable

model, processor = AutoModelForCausalLM.from_pretrained("any-size"), AutoProcessor.from_pretrained("any-size")
set_trainable(model, ["aligners", "image_tower"], verbose=False)
samples = [json.loads(line) for line in open("train.jsonl")]
arguments = TrainingArguments(
    "out", num_train_epochs=1, per_device_train_batch_size=2, remove_unused_columns=False, report_to="none", use_cpu=True,
    save_strategy="no",
)
trainer = Trainer(
    model=model, args=arguments, train_dataset=samples, data_collator=AnyModalityDataCollator(processor),
    processing_class=processor,
)
print("loss", trainer.train().training_loss)
trainer.save_model("tuned")
"""


def fill(cache: Path) -> None:
    publish_documented(cache)
    vision = dict(depth=2, hidden_size=32, num_heads=2, intermediate_size=48, out_hidden_size=24, patch_size=4)
    text = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=12)
    text |= dict(
        intermediate_size=32, vocab_size=64, rope_parameters={"rope_type": "default", "mrope_section": [2, 2, 2]}
    )
    config = Qwen3VLConfig(
        vision_config={**vision, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}, text_config=text
    )
    sides = {"shortest_edge": 256, "longest_edge": 12544}
    publish(cache, "Qwen/Qwen3-VL-2B-Instruct", Qwen3VLModel(config), Qwen2VLImageProcessor(patch_size=4, size=sides))


def media(folder: Path) -> None:
    for name, sides in (("wide", (20, 90)), ("small", (16, 12)), ("page", (90, 64))):
        Image.fromarray(any_size.image(*sides)).save(folder / f"{name}.png")
    for name, seconds in (("short", 0.3), ("long", 5.2)):
        soundfile.write(folder / f"{name}.wav", any_size.sound(seconds), 16000)
    frames = [Image.fromarray(frame) for frame in any_size.video(3)["frames"]]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:], duration=500)
    rows = "\n".join(",".join(f"{math.sin(i / 50 + k):.3f}" for k in range(6)) for i in range(1400))
    (folder / "walk.csv").write_text("ax,ay,az,gx,gy,gz\n" + rows)


def sample(*parts: tuple[str, str]) -> dict:
    content = [*({"type": kind, "path": path} for kind, path in parts), {"type": "text", "text": "what is this ?"}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "big red"}]}


SAMPLES = [
    sample(("image", "wide.png"), ("audio", "short.wav")),
    sample(),
    sample(("document", "page.png"), ("document", "small.png"), ("audio", "long.wav")),
    sample(("video", "clip.gif"), ("imu", "walk.csv"), ("image", "small.png")),
]


@pytest.mark.slow
def test_the_documented_call_from_parts_to_a_server(tmp_path):
    fill(tmp_path / "hub")
    media(tmp_path)
    settings = {"cwd": tmp_path, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    (block,) = blocks("sizes.md")
    (tmp_path / "document.py").write_text(block[: block.index("model, processor")])

    def run(*words: str) -> str:
        done = processes([*words], **settings)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    run("-c", block)
    shown = run("-m", "anymodality.cli", "inspect", "any-size", "--import", "document")
    assert re.search(r"audio +<audio> +1 to 104 ", shown) and re.search(r"image +<image> +1 to 1024 ", shown), shown
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, SAMPLES)))
    assert float(run("-c", TRAIN).split("loss")[-1]) > 0
    answers = [{"answer": "yes"}] * 10
    questions = [{"question_id": i, "image": f"{name}.png", "question": "what ?", "answers": answers, "answer_type": "other"}
                 for i, name in enumerate(("wide", "small", "page"))]  # fmt: skip
    (tmp_path / "vqa.jsonl").write_text("\n".join(map(json.dumps, questions)))
    heard = [{"audio": f"{name}.wav", "text": "one two"} for name in ("short", "long")]
    (tmp_path / "asr.jsonl").write_text("\n".join(map(json.dumps, heard)))
    tasks = ["--tasks", "vqa,asr", "--data", "vqa.jsonl,asr.jsonl", "--output", "results.json", "--batch-size", "2"]
    run("-m", "anymodality.cli", "evaluate", "tuned", *tasks, "--import", "document")
    assert len(json.loads((tmp_path / "results.json").read_text())["tasks"]) == 2
    words = [sys.executable, "-m", "anymodality.cli", "serve", "tuned", "--port", "0", "--import", "document"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        address = server.stdout.readline().split()[-1]
        client = pytest.importorskip("openai").OpenAI(base_url=address, api_key="none", max_retries=0, timeout=300)
        sound = {
            "type": "input_audio",
            "input_audio": {"data": base64.b64encode((tmp_path / "long.wav").read_bytes()).decode(), "format": "wav"},
        }
        asked = [{"role": "user", "content": [sound, {"type": "text", "text": "what is this ?"}]}]
        answer = client.chat.completions.create(model="tuned", messages=asked, max_tokens=4)
        assert answer.usage.prompt_tokens > 60
    finally:
        server.terminate()
        server.wait(30)
