"""`anymodality serve` under 1, 16, 64 and 256 clients at once, and its answers per second.

Each client sends one request: a text, a text and an image, a stream that it cuts, an invalid image, or a body that is too
large. "Survived" means that the next request is answered. Answers per second are for texts with an image: one client after
another, 16 at once, and `generate` on the same 16 as one batch. All 48 answers must be equal.

    python -m benchmarks.load [--quick]                 only answers per second
    python -m benchmarks.load --clients 1 16 64 256     first the load of so many clients
"""

import argparse
import base64
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from transformers_anymodality import compose

from ._ratio import Effort, Result, main


WORDS, SIDE, TIMEOUT = 500, 32, 120
MANY = 16
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer key"}


def save_model(folder: Path) -> None:
    """Saves a tower and a language model of some million random parameters; greedy, and ending only by length."""
    torch.manual_seed(0)
    words = ["<s>", "</s>", *(f"word{i}" for i in range(WORDS - 2))]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, "word0"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    vision = CLIPVisionConfig(
        hidden_size=64, num_attention_heads=4, num_hidden_layers=2, image_size=SIDE, patch_size=16
    )
    language = LlamaConfig(
        vocab_size=WORDS, hidden_size=256, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4
    )
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    image = {"tower": vision, "processor": CLIPImageProcessor(**size), "aligner": {"type": "mlp"}}
    model, processor = compose(language, {"image": image}, tokenizer=tokenizer)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[int, int]]:
    """A server's port and process id. The server has as many threads as this process."""
    command = [sys.executable, "-m", "anymodality.cli", "serve", str(folder), "--port", "0", *options]
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=threads) as server:
        try:
            line = server.stdout.readline()
            yield int(line.strip().removesuffix("/v1").rpartition(":")[2]), server.pid
        finally:
            server.terminate()


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def picture(seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return base64.b64encode(encoded(Image.fromarray(pixels))).decode()


def chat(seed: int, data: str | None = None) -> list[dict[str, Any]]:
    words = {"type": "text", "text": " ".join(f"word{(seed * 7 + i) % 90}" for i in range(3 + seed % 9))}
    image = [] if data is None else [{"type": "input_image", "image_url": f"data:image/png;base64,{data}"}]
    return [{"role": "user", "content": [*image, words]}]


def post(port: int, body: Any, cut: bool = False) -> tuple[int, Any]:
    """Status and answer; status 0 if the connection ended. `cut`: leave after the first piece."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body)
        connection.request("POST", "/v1/chat/completions", data, HEADERS)
        response = connection.getresponse()
        if cut:
            response.read(1)
            return response.status, None
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


def ask(port: int, seed: int, tokens: int) -> str:
    body = {"messages": chat(seed, picture(seed)), "max_tokens": tokens}
    status, answer = post(port, body)
    if status != 200:
        raise RuntimeError(f"{status}: {answer}")
    return json.loads(answer)["choices"][0]["message"]["content"]


def mixed(port: int, seed: int, huge: bytes = b" " * 2 * 1024**2) -> int:
    """Sends a request of one of five kinds; returns its status."""
    match seed % 5:
        case 0:
            return post(port, {"messages": chat(seed), "max_tokens": 4})[0]
        case 1:
            return post(port, {"messages": chat(seed, picture(seed)), "max_tokens": 4})[0]
        case 2:
            return post(port, {"messages": chat(seed), "max_tokens": 1000, "stream": True}, cut=True)[0]
        case 3:
            return post(port, {"messages": chat(seed, "AAAA"), "max_tokens": 4})[0]
    return post(port, huge)[0]


def at_once(function: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, range(count)))


def load(port: int, clients: int) -> dict[str, Any]:
    started, statuses = time.perf_counter(), Counter(at_once(lambda seed: mixed(port, seed), clients))
    survived = post(port, {"messages": chat(0), "max_tokens": 2})[0] == 200
    return {
        "clients": clients,
        "tried": clients,
        "answered": statuses[200],
        "refused": sum(count for status, count in statuses.items() if status >= 400),
        "survived": survived,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "seconds": round(time.perf_counter() - started, 2),
    }


def speed(port: int, folder: Path, tokens: int) -> dict[str, Any]:
    """Answers per second."""

    def timed(function: Callable[[], list[str]]) -> tuple[list[str], float]:
        started = time.perf_counter()
        answers = function()
        return answers, round(MANY / (time.perf_counter() - started), 2)

    def one_ask(seed: int) -> str:
        return ask(port, seed, tokens)

    at_once(one_ask, 2)
    one, alone = timed(lambda: [one_ask(seed) for seed in range(MANY)])
    many, parallel = timed(lambda: at_once(one_ask, MANY))
    model, processor = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)

    def generated() -> list[str]:
        chats = []
        for seed in range(MANY):
            (words,) = chat(seed)[0]["content"]
            chats.append([{"role": "user", "content": [{"type": "image", "base64": picture(seed)}, words]}])
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        inputs = processor.apply_chat_template(chats, processor_kwargs={"padding_side": "left"}, **options)
        output = model.generate(**inputs, max_new_tokens=tokens)
        return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    batch, direct = timed(generated)
    rates = {"one_after_another": alone, "16_clients": parallel, "generate": direct}
    return {"answers_per_second": rates, "times": round(parallel / alone, 2), "equal": one == many == batch}


def measure(effort: Effort) -> Iterator[Result]:
    """Wall-clock time, because client, server and `generate` are separate processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        save_model(folder)
        with served(folder) as (port, _):
            rounds = [
                speed(port, folder, 8 if effort.tiny else 64)
                for _ in range(3 if effort.largest and not effort.tiny else 1)
            ]
    rates = [found["answers_per_second"] for found in rounds]
    ratios = [rate["16_clients"] / rate["generate"] for rate in rates]
    yield Result(14, f"answers per second, {MANY} clients", "generate on the same batch", ratios, 0.8, at_least=True)


def under_load() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        save_model(folder)
        with served(folder, "--max", "megabytes=1") as (port, _):
            rows = [load(port, clients) for clients in options.clients]
            measured = speed(port, folder, options.tokens)
    for row in rows:
        print("{clients:>4} clients: {tried} tried, {answered} answered, {refused} refused, ".format(**row), end="")
        print("{seconds} s, the next is {how}".format(how="answered" if row["survived"] else "NOT answered", **row))
    rates = ", ".join(f"{name.replace('_', ' ')} {rate}" for name, rate in measured["answers_per_second"].items())
    print(f"answers per second: {rates}; {measured['times']} times as many; equal: {measured['equal']}")
    print(json.dumps({"cores": os.cpu_count(), "load": rows, **measured}))


if __name__ == "__main__":
    under_load() if "--clients" in sys.argv else main(__doc__ or "", measure)
