"""Batches of the server that fail: what is wrong with one request hurts no other, and the metrics count it."""

import asyncio

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria

from modeling_tests import tiny


pytest.importorskip("fastapi")
pytest.importorskip("openai")
parser = pytest.importorskip("prometheus_client.parser")

from huggingface_hub.utils import httpx  # noqa: E402

from transformers_anymodality.inference.server import batching, build_app  # noqa: E402
from transformers_anymodality.inference.server.batching import FAILED, BatchManager, TooLargeError  # noqa: E402
from transformers_anymodality.inference.server.metrics import Metrics  # noqa: E402
from transformers_anymodality.utils.upstream_serving import StreamError  # noqa: E402


NEW, WORDS = 8, ["what", "one", "two", "three", "yes", "no"]
CHATS = [tiny.chat(*["image"] * (i % 2), word) for i, word in enumerate(WORDS)]
NO_MEMORY = {
    "a GPU's": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    "torch's": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    "Python's": MemoryError,
}


class _Raises(StoppingCriteria):
    def __init__(self, tokens, error):
        self.tokens, self.error = tokens, error

    def __call__(self, input_ids, scores, **kwargs):
        self.tokens -= 1
        if not self.tokens:
            raise self.error()
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.fixture
def model(monkeypatch):
    """A model and its processor; `model.fails(ids)` gives what makes a batch's error, and after how many tokens it comes."""
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0)
    model.fails, model.batches, generate = lambda ids: None, [], model.generate

    def failing(**inputs):
        model.batches.append(len(inputs["input_ids"]))
        if failure := model.fails(inputs["input_ids"]):
            error, tokens = failure
            if not tokens:
                raise error()
            inputs["stopping_criteria"].append(_Raises(tokens, error))
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", failing)
    return model, processor


def answers(model, processor, chats=CHATS, streamed=(), broken=(), beside=(), late=()):
    """What each chat is answered, or its error; `streamed`, `broken` and `late`, which take time to be read, are places in
    the list. Inputs named `beside` say something of each token."""

    async def whole(manager, i, config, inputs):
        if i in late:
            with manager.expects_one():
                await asyncio.sleep(0.5)
        text, length, ids = await manager.generate_non_streaming(model, processor, inputs, config, str(i))
        assert length == inputs["input_ids"].shape[1] and len(ids) == NEW + i
        return text

    async def pieces(manager, i, config, inputs):
        queue, streamer = manager.generate_streaming(model, processor, inputs, config, str(i))
        if i in broken:
            streamer.put = _cannot_decode
        said = ""
        while (item := await queue.get()) is not None:
            if isinstance(item, StreamError):
                return item.msg
            said += item
        assert streamer.total_tokens == NEW + i
        return said

    async def all_of_them():
        manager, asked = BatchManager(512, Metrics()), []
        for i, chat in enumerate(chats):
            config = GenerationConfig(**{**model.generation_config.to_diff_dict(), "max_new_tokens": NEW + i})
            inputs = tiny.inputs(processor, chat)
            inputs |= dict.fromkeys(beside, inputs["input_ids"] % 2 + 1)
            asked.append((pieces if i in streamed else whole)(manager, i, config, inputs))
        try:
            return await asyncio.gather(*asked, return_exceptions=True), manager.metrics
        finally:
            manager.stop()

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("tokens", [0, 3], ids=["at once", "after three tokens"])
@pytest.mark.parametrize("kind", NO_MEMORY)
def test_what_does_not_fit_into_memory_together_is_answered_in_parts(model, kind, tokens):
    right, _ = answers(*model, streamed=(1, 4))
    assert model[0].batches == [6] and all(isinstance(answer, str) and answer for answer in right)
    model[0].batches.clear()
    model[0].fails = lambda ids: (NO_MEMORY[kind], tokens) if len(ids) > 2 else None
    parts, metrics = answers(*model, streamed=(1, 4))
    assert parts == right
    assert model[0].batches == [6, 3, 2, 1, 3, 2, 1]
    assert metrics.failed._value.get() == 0
    assert metrics.generated_tokens._value.get() == sum(NEW + i for i in range(6))


@pytest.mark.parametrize(("seconds", "batches"), [(60, [6]), (0, [4, 2])])
def test_a_batch_waits_for_what_is_being_read_but_not_long(model, monkeypatch, seconds, batches):
    right, _ = answers(*model)
    model[0].batches.clear()
    monkeypatch.setattr(batching, "_MOST_GATHER_SECONDS", seconds)
    assert answers(*model, late=(2, 5))[0] == right
    assert model[0].batches == batches


@pytest.mark.parametrize("name", ["token_type_ids", "mm_token_type_ids"])
def test_what_is_said_of_each_token_is_said_of_new_ones(model, name):
    right, _ = answers(*model)
    generate, said = model[0].generate, iter([0, 3, 6, 6, 3, 6, 6])

    def reads_types(**inputs):
        ids, types = inputs["input_ids"], inputs.pop(name)
        end = ids.shape[1] - next(said)
        expected = (ids % 2 + 1) * inputs["attention_mask"]
        expected[:, end:] = expected[:, end - 1 : end]
        assert torch.equal(types, expected)
        return generate(**inputs)

    model[0].generate = reads_types
    model[0].batches.clear()
    model[0].fails = lambda ids: (NO_MEMORY["torch's"], 3) if len(ids) > 2 else None
    assert answers(*model, beside=[name])[0] == right
    assert model[0].batches == [6, 3, 2, 1, 3, 2, 1]


@pytest.mark.parametrize("tokens", [0, 1], ids=["at once", "after a token"])
@pytest.mark.parametrize(
    "error", [NO_MEMORY["torch's"], lambda: RuntimeError('a "tower"\nfails')], ids=["memory", "other"]
)
def test_one_that_fails_hurts_no_other(model, error, tokens):
    right, _ = answers(*model, streamed=(1, 4))
    for bad in (2, 4):  # one that is answered at once, and one in pieces
        marks = tiny.inputs(model[1], [*CHATS[bad]])["input_ids"][0]
        model[0].fails = lambda ids, marks=marks: (error, tokens) if _holds(ids, marks) else None
        found, metrics = answers(*model, streamed=(1, 4))
        assert [*found[:bad], *found[bad + 1 :]] == [*right[:bad], *right[bad + 1 :]]
        assert metrics.failed._value.get() == 1
        memory = error is NO_MEMORY["torch's"]
        if bad == 2:
            assert isinstance(found[2], TooLargeError if memory else RuntimeError)
        else:
            assert "does not fit into the server's memory" in found[4] if memory else found[4] == FAILED


def _cannot_decode(token):
    if token is not None:  # the prompt
        raise BaseException("as a tokenizer in Rust panics")


def _holds(ids, marks):
    """Whether a batch has a row of these tokens."""
    return any(row.unfold(0, len(marks), 1).eq(marks).all(1).any() for row in ids)


def test_an_answer_that_something_else_ends_is_given(model):
    """Here the time that the model's own config allows."""
    config = GenerationConfig(**model[0].generation_config.to_diff_dict(), max_new_tokens=NEW, max_time=1e-9)

    async def ask():
        manager = BatchManager(512, Metrics())
        answer = manager.generate_non_streaming(*model, tiny.inputs(model[1], CHATS[0]), config, "0")
        try:
            return await asyncio.wait_for(answer, 20)
        finally:
            manager.stop()

    assert len(asyncio.run(ask())[2]) == 1


def test_an_answer_that_cannot_be_decoded_hurts_no_other(model):
    right, _ = answers(*model, streamed=(1, 4))
    found, metrics = answers(*model, streamed=(1, 4), broken=(4,))
    assert found == [*right[:4], FAILED, right[5]]
    assert model[0].batches == [6, 6] and metrics.failed._value.get() == 1


# --- the application -------------------------------------------------------------------------------------------------


def values(page):
    """Name and labels of a metric -> its value."""
    families = parser.text_string_to_metric_families(page)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_metrics_tell_what_was_asked_answered_and_refused(model):
    app = build_app(*model, "tiny", api_key="key")
    messages = [{"role": "user", "content": "what"}]

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        options = {"base_url": "http://127.0.0.1", "headers": {"Authorization": "Bearer key"}}
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, **options) as client:

            async def ask(**more):
                body = {"messages": messages, "max_tokens": 3, **more}
                return await client.post("/v1/chat/completions", json=body)

            said = [await ask(), await ask(stream=True), await ask(stop=3), await client.get("/v1/nothing")]
            said.append(await client.get("/v1/models", headers={"Authorization": "Bearer no"}))
            said.append(await client.get("/metrics", headers={"Authorization": "Bearer no"}))
            model[0].fails = lambda ids: (NO_MEMORY["torch's"], 0)
            said.append(await ask())
            model[0].fails = lambda ids: (lambda: RuntimeError("x"), 0)
            said += [await ask(), await ask(stream=True)]
            model[0].fails = lambda ids: None
            said.append(await ask())
            return said, await client.get("/metrics")

    said, page = asyncio.run(run())
    assert [one.status_code for one in said] == [200, 200, 400, 404, 401, 401, 413, 500, 200, 200]
    assert "send less, or fewer media" in said[6].json()["error"]["message"]
    assert f'"error": "{FAILED}"' in said[8].text
    assert page.headers["content-type"].startswith("text/plain; version=")
    found, chat = values(page.text), "/v1/chat/completions"
    counts = {(chat, "200"): 4, (chat, "400"): 1, (chat, "413"): 1, (chat, "500"): 1}
    counts |= {("other", "404"): 1, ("/v1/models", "401"): 1}
    assert {key[1:]: value for key, value in found.items() if key[0] == "anymodality_requests_total"} == counts
    assert found["anymodality_request_seconds_count", chat] == 7
    assert found["anymodality_requests_running",] == found["anymodality_requests_waiting",] == 0
    assert found["anymodality_generated_tokens_total",] == 9 and found["anymodality_failed_answers_total",] == 3
    length = tiny.inputs(model[1], messages)["input_ids"].shape[1]
    assert found["anymodality_prompt_tokens_total",] == 6 * length
