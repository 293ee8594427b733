"""Composites in vLLM: its answers, from a folder, equal those of our own `generate`; only where vLLM is installed."""

import base64
import copy
import io
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import chdir, contextmanager

import pytest


os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
vllm = pytest.importorskip("vllm")

import numpy as np  # noqa: E402
import openai  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import Wav2Vec2FeatureExtractor  # noqa: E402
from vllm.distributed import cleanup_dist_env_and_memory  # noqa: E402

from modeling_tests import tiny  # noqa: E402
from modeling_tests.docs import block, lines  # noqa: E402
from modeling_tests.tiny_causal_lms import tiny_causal_lm  # noqa: E402


# vLLM's attention on a CPU takes heads of 32 numbers or more.
HEADS = dict(hidden_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=32)
# The names that GPT-2 and OPT have.
OTHERS = {
    "gpt2": dict(n_embd=128, n_head=4),
    "opt": dict(hidden_size=128, word_embed_proj_dim=128, num_attention_heads=4),
}
TOKENS = 10


def language_model(model_type: str):
    config = tiny_causal_lm(model_type, vocab_size=len(tiny.WORDS))
    config.update(OTHERS.get(model_type, HEADS))
    config.update({"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2})
    torch.manual_seed(0)
    model = tiny.AutoModelForCausalLM.from_config(config).eval()
    tiny.spread(model)
    return model


def save(folder, model_type: str = "llama", settings=None):
    model, processor = tiny.composite(language_model(model_type), settings)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


@contextmanager
def engine(folder, **kwargs):
    settings = dict(dtype="float32", max_model_len=256, max_num_seqs=4, enforce_eager=True, seed=0)
    llm = vllm.LLM(str(folder), **settings, **kwargs)
    try:
        yield llm
    finally:
        del llm
        cleanup_dist_env_and_memory()


def ours(model, processor, chat) -> list[int]:
    inputs = tiny.inputs(processor, chat)
    output = model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, num_beams=1)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def theirs(llm, processor, chats) -> list[list[int]]:
    prompts = [
        {"prompt_token_ids": processor.encode_prompt(chat), "multi_modal_data": processor.media_of(chat)}
        for chat in chats
    ]
    greedy = vllm.SamplingParams(temperature=0, max_tokens=TOKENS, min_tokens=TOKENS)
    return [list(answer.outputs[0].token_ids) for answer in llm.generate(prompts, greedy, use_tqdm=False)]


# Not depth and heat: their maps need torchvision, which has no build here for the torch that vLLM for CPUs asks for.
MODALITIES = ("image", "video", "audio", "imu")
CHATS = [
    tiny.chat("image", "what is this ?"),
    tiny.chat("what is this and that ?", seed=1),
    tiny.chat("audio", "and", "imu", "image", "what is that ?", "image", seed=2),
    tiny.chat("video", "what", "image", seed=3),
    tiny.chat("image", "what is this ?", seed=5),
    tiny.chat("audio", "audio", "what ?", seed=6),
]


def photo(seed: int = 0) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(tiny.medium("image", seed)).save(buffer, "png")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"},
    }


def recording(wave) -> dict:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16000, format="WAV", subtype="FLOAT")
    return {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(buffer.getvalue()).decode(), "format": "wav"},
    }


def test_the_block_of_the_docs_runs(tmp_path):
    """In a process of its own: vLLM takes over the classes of language models, which are built no more afterwards."""
    model, processor = save(tmp_path / "my-model", settings=tiny.modalities("imu"))
    walk = np.column_stack([np.arange(40) / 32, tiny.medium("imu")])
    np.savetxt(tmp_path / "walk.csv", walk, delimiter=",", comments="", header="time,ax,ay,az,gx,gy,gz")
    # A CPU, and a model of 256 places.
    settings = dict(dtype="float32", max_model_len=256, max_num_seqs=4, enforce_eager=True)
    before = f"import functools, json, vllm\nvllm.LLM = functools.partial(vllm.LLM, **{settings})\n"
    (tmp_path / "block.py").write_text(
        f"{before}{block('serving.md', 'vllm')}\nprint('SAID', json.dumps([chat, answer]))"
    )
    run = subprocess.run([sys.executable, "block.py"], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stderr[-3000:]
    chat, answer = json.loads(run.stdout.split("SAID")[1])
    with chdir(tmp_path):
        inputs = tiny.inputs(processor, chat)
    expected = model.generate(**inputs, max_new_tokens=50, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answer.split() == processor.decode(expected, skip_special_tokens=True).split()


def test_the_server_answers_openais_client(tmp_path):
    model, processor = save(tmp_path, settings=tiny.modalities("image", "audio"))
    words, wave = {"type": "text", "text": " what is this ? "}, tiny.medium("audio", 2)
    asked = [[photo(1), words], [recording(wave), words, photo(2)], [words]]
    same = [
        [{"type": "image", "image": tiny.medium("image", 1)}, words],
        [{"type": "audio", "audio": wave}, words, {"type": "image", "image": tiny.medium("image", 2)}],
        [words],
    ]
    expected = [
        processor.decode(ours(model, processor, [{"role": "user", "content": content}]), skip_special_tokens=True)
        for content in same
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--host 127.0.0.1 --port {port} --dtype float32 --enforce-eager --max-num-seqs 4"
    ((_, serve, *words),) = lines("vllm")  # of the documentation
    values = {"my-model": str(tmp_path), "4096": "256"}
    assert serve == "serve" and values.keys() <= {*words}
    told = [values.get(word, word) for word in words]
    # What `vllm serve` runs: in builds for CPUs, the command itself misses the name of its package.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", *told, *flags.split()]
    with open(tmp_path / "log.txt", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        for _ in range(240):
            assert server.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(1)
        settings = dict(model=str(tmp_path), max_tokens=TOKENS, temperature=0, extra_body={"min_tokens": TOKENS})
        for content, answer in zip(asked, expected, strict=True):
            found = client.chat.completions.create(messages=[{"role": "user", "content": content}], **settings)
            assert found.choices[0].message.content.split() == answer.split()
    finally:
        server.terminate()
        server.wait(60)


def test_what_vllm_cannot_run_is_refused():
    from transformers_anymodality.inference.vllm.model import check

    model, _ = tiny.composite(settings=tiny.modalities("image"))
    check(model.config)
    for name, value, message in (
        ("references", {"language_model": {}}, "light checkpoint"),
        ("reads_input_ids", True, "reads ids for more than their embeddings"),
    ):
        config = copy.deepcopy(model.config)
        setattr(config, name, value)
        with pytest.raises(ValueError, match=message):
            check(config)
    model.config.image_aligner_config.sum_neighbours = True
    with pytest.raises(ValueError, match="tokens that the language model must not see"):
        check(model.config)


# Behind these, vLLM has changed classes of Transformers in this process.


def test_every_modality_answers_as_ours(tmp_path):
    model, processor = save(tmp_path, settings=tiny.modalities(*MODALITIES))
    expected = [ours(model, processor, chat) for chat in CHATS]
    assert len({tuple(answer) for answer in expected}) == len(CHATS)  # media tell
    with engine(tmp_path, limit_mm_per_prompt=dict.fromkeys(MODALITIES, 3)) as llm:
        assert theirs(llm, processor, CHATS) == expected
        assert theirs(llm, processor, CHATS) == expected  # media that vLLM has kept
        for seed in (0, 5):  # a file, and another of the same name
            Image.fromarray(tiny.medium("image", seed)).save(tmp_path / "a.png")
            chat = tiny.chat("image", "what is this ?", seed=seed)
            chat[0]["content"][0]["image"] = str(tmp_path / "a.png")
            assert theirs(llm, processor, [chat]) == [expected[0 if seed == 0 else 4]]


@pytest.mark.parametrize("model_type", ["qwen3", "opt", "gemma2", "mixtral"])
def test_language_models_of_other_kinds(tmp_path, model_type):
    """Tied heads, other names of head and body, learned positions, soft caps, experts; and sound of several lengths."""
    audio = {
        "tower": tiny.wav2vec2_config(),
        "processor": Wav2Vec2FeatureExtractor(return_attention_mask=True),
        "aligner": {"type": "mlp", "pool": "stride", "pool_size": 2},
    }
    settings = {
        "image": {"tower": tiny.vision_config(), "processor": tiny.image_processor(), "aligner": "mlp"},
        "audio": audio,
    }
    model, processor = save(tmp_path, model_type, settings)
    chats = [tiny.chat("image", "audio", "what ?", "audio", seed=3), tiny.chat("what is this ?", "audio", seed=4)]
    expected = [ours(model, processor, chat) for chat in chats]  # before vLLM changes the language model's class
    with engine(tmp_path, limit_mm_per_prompt={"image": 1, "audio": 2}) as llm:
        assert theirs(llm, processor, chats) == expected
