"""`anymodality serve`: a real server process and OpenAI's client."""

import json
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from transformers import GenerationConfig, StoppingCriteriaList

from modeling_tests import chat_templates, tiny
from modeling_tests.docs import block, lines


pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")

from huggingface_hub.utils import httpx  # noqa: E402

from modeling_tests.served_media import CSV, DEPTH, PHOTO, WALK, WORLD, b64, image, movie, png, user, wav  # noqa: E402


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """A folder with files where `make quickstart` leaves its own."""
    folder = tmp_path_factory.mktemp("quickstart")
    for name, data in {
        "image/0005_7.png": PHOTO,
        "audio/0005_7.wav": wav(0.5),
        "imu/0005_7.csv": CSV.encode(),
    }.items():
        file = folder / WORLD / name
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory, quickstart):
    """The address of a server, and the model that it serves."""
    folder = tmp_path_factory.mktemp("serve")
    model, processor = tiny.composite(settings=tiny.modalities("image", "video", "audio", "imu", "depth"))
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder / "tiny")
    processor.save_pretrained(folder / "tiny")
    limits = "--max megabytes=1 --max pixels=10000 --max seconds=4 --max new_tokens=8".split()
    command = [sys.executable, "-m", "anymodality.cli", "serve", str(folder / "tiny"), "--port", "0"]
    command += ["--media-root", str(quickstart / WORLD), *limits]
    log = (folder / "log").open("w+")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    line = server.stdout.readline()
    assert line.startswith("tiny (audio, depth, image, imu, video) at http://127.0.0.1:"), Path(log.name).read_text()
    yield line.split()[-1], model, processor
    assert server.poll() is None, "the server is gone: " + Path(log.name).read_text()
    server.terminate()
    server.wait(30)
    said = Path(log.name).read_text()
    assert "Traceback" not in said and said.endswith("tiny: stopped.\n"), said


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=served[0], api_key="none", max_retries=0, timeout=300)


def expected(served, messages, new: int = 8) -> str:
    _, model, processor = served
    inputs = tiny.inputs(processor, messages)
    output = model.generate(**inputs, max_new_tokens=new, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(output, skip_special_tokens=True)


def ask(client, messages, **options):
    return client.chat.completions.create(model="tiny", messages=messages, **options)


def ours(**media) -> list[dict]:
    return user(*({"type": name, name: medium} for name, medium in media.items()))


SAID = {
    "text": (user(), ours()),
    "image": (user(image()), ours(image=PHOTO)),
    "audio": (
        user({"type": "input_audio", "input_audio": {"data": b64(wav(0.5)), "format": "wav"}}),
        ours(audio=wav(0.5)),
    ),
    "imu": (
        user({"type": "input_imu", "input_imu": {"values": WALK, "sampling_rate": 32}}),
        ours(imu={"values": WALK, "sampling_rate": 32}),
    ),
    "imu as CSV": (
        user({"type": "imu_url", "imu_url": {"url": f"data:text/csv;base64,{b64(CSV.encode())}"}}),
        ours(imu=CSV.encode()),
    ),
    "video": (
        user({"type": "video_url", "video_url": {"url": f"data:video/x-matroska;base64,{b64(movie())}"}}),
        ours(video=movie()),
    ),
    "depth": (user({"type": "input_depth", "input_depth": {"data": b64(DEPTH)}}), ours(depth=DEPTH)),
}


@pytest.mark.parametrize("modality", SAID)
def test_openais_client_gets_the_models_answers(served, client, modality):
    sent, read = SAID[modality]
    answer = ask(client, sent)
    assert answer.choices[0].message.content == expected(served, read) and answer.model == "tiny"
    assert answer.usage.completion_tokens <= 8
    chunks = list(ask(client, sent, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content


def test_responses_and_models(served, client):
    content = [
        {"type": "input_image", "image_url": image()["image_url"]["url"]},
        {"type": "input_text", "text": "what ?"},
    ]
    said = client.responses.create(model="tiny", instructions="small", input=[{"role": "user", "content": content}])
    read = ours(image=PHOTO)
    read[0]["content"][1] = {"type": "text", "text": "what ?"}
    assert said.output_text == expected(served, [{"role": "system", "content": "small"}, *read])
    events = list(client.responses.create(model="tiny", input="what ?", stream=True))
    assert events[-1].type == "response.completed"
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_several_clients_at_once(served, client):
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda name: ask(client, SAID[name][0]).choices[0].message.content, SAID))
    assert answers == [expected(served, read) for _, read in SAID.values()]


def test_sampling_options(served, client):
    whole = ask(client, user(), max_tokens=5).choices[0]
    assert whole.message.content == expected(served, ours(), 5)
    ask(client, user(), temperature=1.0, top_p=0.9, seed=3, frequency_penalty=0.1, max_completion_tokens=2)


def test_stop_strings_are_found_with_a_processor_for_a_tokenizer(shared):
    """Which is what the stock server gives."""
    model, config = shared[0], GenerationConfig(stop_strings=["yes"])
    config._eos_token_tensor = None  # which `generate` sets
    criteria = model._get_stopping_criteria(
        config, StoppingCriteriaList(), tokenizer=chat_templates.processor("chatml")
    )
    assert [criterion.stop_strings for criterion in criteria if hasattr(criterion, "stop_strings")] == [("yes",)]


def test_typed_control_tokens_are_text(served, client):
    typed = "what is <image> ?"
    answer = ask(client, [{"role": "user", "content": typed}])
    assert answer.choices[0].message.content == expected(served, [{"role": "user", "content": typed}])


BOMB = png(np.zeros((200, 200), np.uint8))
BAD = {
    "a URL": (image(), {"url": "http://127.0.0.1:1/a.png"}, "URLs are not fetched"),
    "a path": (image(), {"url": "/etc/passwd"}, "not valid base64"),
    "no base64": (image(), {"url": "data:image/png;base64,$$"}, "not valid base64"),
    "no image": (image(), {"url": f"data:image/png;base64,{b64(b'nothing')}"}, "not an image of a known format"),
    "half an image": (image(), {"url": f"data:image/png;base64,{b64(PHOTO[:60])}"}, "truncated or corrupt"),
    "many pixels": (image(), {"url": f"data:image/png;base64,{b64(BOMB)}"}, "more than the limit of 10000"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_400(client, case):
    part, payload, message = BAD[case]
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        ask(client, user({**part, "image_url": payload}))
    assert caught.value.body["type"] == "invalid_request_error"


def test_other_bad_requests_are_400(client):
    sound = {"type": "input_audio", "input_audio": {"data": b64(wav(5)), "format": "wav"}}
    for messages, options, message in (
        (user(sound), {}, "limit of 4 s"),
        (user({"type": "input_imu", "input_imu": {"values": [[1.0] * 5]}}), {}, "expected"),
        (user({"type": "input_imu", "input_imu": {"values": WALK * 9}}), {"stream": True}, "s"),
        (user({"type": "input_imu", "input_imu": {"values": [[float("1e39")] * 6]}}), {}, "finite"),
        (user({"type": "thermal_url", "thermal_url": {"url": "data:image/png;base64,AAAA"}}), {}, "takes text"),
        (user({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}), {}, "video"),
        ([{"role": "user", "content": "yes " * 3000}], {"stream": True}, "tokens; it must have fewer"),
        (user(), {"temperature": -1}, "temperature"),
        (
            user(),
            {"extra_body": {"chat_template_kwargs": {"processor_kwargs": {"allow_urls": True}}}},
            "does not read",
        ),
        (user(), {"extra_body": {"generation_config": "{}"}}, "generation_config"),
        (user(), {"extra_body": {"tools": "x"}}, "tools"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            ask(client, messages, **options)
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.chat.completions.create(model="gpt-9", messages=user())
    with pytest.raises(openai.BadRequestError, match="input"):
        client.responses.create(model="tiny", input=[3])


def test_raw_requests(served):
    url = served[0] + "/chat/completions"
    headers = {"Content-Type": "application/json"}
    with httpx.Client(trust_env=False, timeout=300) as http:

        def post(content, **more):
            return http.post(url, content=content, headers={**headers, **more})

        for body in (b"", b"{", b"[]", b"3", b"[" * 100_000, b'{"messages": ' + b"[" * 400 + b"]" * 400 + b"}"):
            assert post(body).status_code == 400
            assert post(body).json()["error"]["message"]
        assert post(b"{}", **{"Content-Type": "text/plain"}).status_code == 400
        assert post(b" " * (2 * 1024**2)).status_code == 413
        assert post(iter([b" " * 1024**2] * 2)).status_code == 413
        assert post(b"{}", Host="evil.example").status_code == 400
        missing = http.post(served[0] + "/completions", json={"prompt": "x"})
        assert "There is no /v1/completions here, but /v1/chat/completions, " in missing.json()["error"]["message"]
        for path in ("/load_model", "/reset", "/v1/completions", "/v1/audio/transcriptions", "/v1/systemone", "/docs"):
            assert http.post(served[0].removesuffix("/v1") + path, json={"model": "x"}).status_code in (404, 405)
        assert http.get(served[0].removesuffix("/v1") + "/health").json() == {"status": "ok"}
        answer = post(json.dumps({"messages": user(), "max_tokens": 1}))
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 1


def test_the_block_of_the_docs_runs(served, quickstart, monkeypatch, capsys):
    """With this server's address and name for those of the page; and its line for curl."""
    monkeypatch.chdir(quickstart)
    code = block("serving.md", "OpenAI")
    for name, here in {"http://127.0.0.1:8000/v1": served[0], "my-model": "tiny"}.items():
        assert name in code
        code = code.replace(name, here)
    Path("block.py").write_text(code)
    question = runpy.run_path("block.py")["messages"][0]["content"][1]
    media = ours(image=PHOTO, audio=wav(0.5), imu=CSV.encode())[0]["content"][:3]
    said = [expected(served, [{"role": "user", "content": [medium, question]}]) for medium in media]
    assert capsys.readouterr().out == "\n".join([*said, said[-1]])
    ((_, address, option, body),) = lines("curl")
    assert option == "--json" and address.endswith("/v1/chat/completions")
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{served[0]}/chat/completions", content=body, headers=headers, timeout=300).json()
    assert answer["choices"][0]["message"]["content"] == said[0]
