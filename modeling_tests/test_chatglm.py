"""ChatGLM-6B: padding, caches, beams and other embeddings change nothing; its tokenizer reads its published file."""

import struct

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from modeling_tests import tiny
from modeling_tests.checks import last_logits
from modeling_tests.tiny_systems import system
from transformers_anymodality.model.media_encoding import cache_of
from transformers_anymodality.systems.x_llm import chat_template
from transformers_anymodality.systems.x_llm.chatglm import ChatGLMConfig, ChatGLMForCausalLM, positions
from transformers_anymodality.systems.x_llm.convert_chatglm import chatglm_tokenizer
from transformers_anymodality.utils.upstream import CACHE_NAME, set_checkpointing


PAD, BOS, EOS, GMASK, MASK = 0, 1, 2, 3, 4
LONG, SHORT = [7, 8, 9, 10, 11, GMASK, BOS, 12], [20, 21, MASK, BOS]
GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def config(**kwargs) -> ChatGLMConfig:
    sizes = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    ids = dict(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, gmask_token_id=GMASK, mask_token_id=MASK)
    return ChatGLMConfig(**{**sizes, **ids, **kwargs})


@pytest.fixture(scope="module")
def model() -> ChatGLMForCausalLM:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config()).eval()
    tiny.spread(made)
    return made


def batch(*rows: list[int]) -> dict[str, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in rows])}


def test_positions_of_the_paper():
    ids = torch.tensor([[PAD, 7, 8, GMASK, 9, BOS, 10, 11], [7, 8, 9, 10, 11, 12, 13, 14]])
    places, context = positions(ids, ids != PAD, config())
    assert places[:, 0, 1:].tolist() == [[0, 1, 2, 3, 2, 2, 2], [0, 0, 0, 0, 1, 2, 3]]
    assert context.tolist() == [[True] * 5 + [False] * 3, [False] * 8]
    # Without an answer, from left to right.
    assert places[:, 1].tolist() == [list(range(8)), [0] * 8]


def test_context_sees_itself_and_answers_see_what_is_before(model):
    ids = torch.tensor([LONG])
    before = model(input_ids=ids).logits
    later, answer = ids.clone(), ids.clone()
    later[0, 4], answer[0, -1] = 50, 50
    assert (model(input_ids=later).logits[0, 0] - before[0, 0]).abs().max() > 1e-4
    assert torch.equal(model(input_ids=answer).logits[0, :-1], before[0, :-1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_anywhere_is_not_counted(model, attention):
    model.set_attn_implementation(attention)
    alone = model(input_ids=torch.tensor([SHORT])).logits[0]
    left = model(**batch(LONG, SHORT)).logits[1, -len(SHORT) :]
    scattered = torch.tensor([[20, PAD, 21, PAD, PAD, MASK, BOS, PAD]])
    mask = torch.tensor([[1, 0, 1, 0, 0, 1, 1, 0]])
    between = model(input_ids=scattered, attention_mask=mask).logits[0, mask[0].bool()]
    torch.testing.assert_close(left, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(between, alone, atol=1e-5, rtol=1e-4)
    model.set_attn_implementation("sdpa")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"cache_implementation": "static"},
        {"cache_implementation": "static", "num_beams": 2},
    ],
)
def test_batched_generation_equals_one_by_one(model, settings):
    together = model.generate(**batch(LONG, SHORT), **GREEDY, **settings)[:, len(LONG) :].tolist()
    alone = [model.generate(**batch(row), **GREEDY, **settings)[:, len(row) :].tolist() for row in (LONG, SHORT)]
    assert together == [*alone[0], *alone[1]]


def test_cached_equals_uncached_by_any_cache(model):
    ids = torch.tensor([[*LONG, 13, 14], [*SHORT, 15, 16, 17, 18, 19, 20]])
    expected = model(input_ids=ids).logits
    # The whole context is read at once; then one or several tokens.
    for cache in (None, DynamicCache(), DynamicCache(config=model.config), StaticCache(model.config, 12)):
        found = []
        for piece in (ids[:, :7], ids[:, 7:8], ids[:, 8:]):
            output = model(input_ids=piece, **{CACHE_NAME: cache}, use_cache=True)
            cache, found = cache_of(output), [*found, output.logits]
        torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-5, rtol=1e-4)


def test_cropped_and_reordered_caches_go_on(model):
    ids = torch.tensor([LONG, [30, 31, 32, 33, GMASK, BOS, 34, 35]])
    cache = cache_of(model(input_ids=ids, use_cache=True))
    cache.crop(-1)
    cache.reorder_cache(torch.tensor([1, 0]))
    output = model(input_ids=ids[[1, 0], -1:], **{CACHE_NAME: cache})
    torch.testing.assert_close(output.logits[:, -1], model(input_ids=ids[[1, 0]]).logits[:, -1], atol=1e-5, rtol=1e-4)


def test_assisted_generation_equals_greedy(model):
    expected = model.generate(**batch(LONG), **GREEDY)
    assert torch.equal(model.generate(**batch(LONG), **GREEDY, prompt_lookup_num_tokens=2), expected)


def test_a_cache_of_another_model_is_refused(model):
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.randn(1, 2, 3, 16), torch.randn(1, 2, 3, 16), layer)
    with pytest.raises(ValueError, match="holds 3 tokens, but not their ids"):
        model(input_ids=torch.tensor([[5]]), **{CACHE_NAME: cache})
    with pytest.raises(ValueError, match="finds positions by `input_ids`"):
        model(inputs_embeds=torch.randn(1, 3, 32))


def test_saves_loads_and_trains(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    inputs = batch(LONG, SHORT)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    again.train()
    set_checkpointing(again, True)
    again(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert [name for name, p in again.named_parameters() if p.grad is None] == []


def test_the_published_config_is_read():
    published = ChatGLMConfig.from_dict(
        {"num_layers": 3, "inner_hidden_size": 64, "max_sequence_length": 99, "layernorm_epsilon": 1e-6}
    )
    assert (published.num_hidden_layers, published.intermediate_size) == (3, 64)
    assert (published.max_position_embeddings, published.layer_norm_eps) == (99, 1e-6)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"use_cache": False}])
def test_with_senses_batched_equals_one_by_one(settings):
    """Of rows with media, whose unused places of speech lie within the context."""
    model, processor = with_senses()
    chats = [
        [{"role": "user", "content": [part("image"), part("speech"), {"type": "text", "text": "What?"}]}],
        [{"role": "user", "content": [part("speech", 1), {"type": "text", "text": "Who is it?"}]}],
        [{"role": "user", "content": "Say something."}],
    ]
    inputs = tiny.inputs(processor, *chats)
    assert processor.decode(inputs["input_ids"][0, -2:]) == "[gMASK]<sop>"
    together = model.generate(**inputs, **GREEDY, **settings)[:, inputs["input_ids"].shape[1] :].tolist()
    single = [tiny.inputs(processor, chat) for chat in chats]
    alone = [model.generate(**row, **GREEDY, **settings)[0, row["input_ids"].shape[1] :].tolist() for row in single]
    assert together == alone
    torch.testing.assert_close(
        last_logits(model, inputs), torch.cat([last_logits(model, row) for row in single]), atol=1e-5, rtol=1e-4
    )


def part(kind: str, seed: int = 0) -> dict:
    from transformers_anymodality.modalities import MODALITIES

    medium = MODALITIES[kind].dummy(None, {}, seed) if kind == "speech" else tiny.medium(kind, seed)
    return {"type": kind, kind: medium}


def with_senses():
    """X-LLM with a tiny ChatGLM, and a byte tokenizer that knows its special tokens."""
    from modeling_tests.tiny_systems import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["[gMASK]", "<sop>"]})
    tokenizer._tokenizer.post_processor = None
    tokenizer.add_bos_token = False
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(t) for name, t in (("gmask", "[gMASK]"), ("bos", "<sop>"))
    }
    language = AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), mask_token_id=9, **ids)).eval()
    tiny.spread(language)
    return system("x_llm", language_model=language, tokenizer=tokenizer)


def test_only_chatglm_has_its_tail():
    assert "[gMASK]" not in chat_template()
    assert system("x_llm")[1].tokenizer.chat_template.count("gMASK") == 0
    assert with_senses()[0].config.reads_input_ids


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def message(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def sentencepiece_file(path, pieces: list[tuple[str, float, int]]):
    """A SentencePiece file of a unigram model that leaves blanks as they are."""
    data = b""
    for name, score, kind in pieces:
        piece = message(1, name.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind)
        data += message(1, piece)
    data += message(2, b"\x18\x01") + message(3, message(1, b"identity") + b"\x20\x00")
    path.write_bytes(data)
    return path


PIECES = [
    ("<unk>", 0.0, 2),
    *((name, 0.0, 3) for name in ("<s>", "</s>", "<pad>")),
    *((name, 0.0, 4) for name in ("<n>", "<|tab|>", "<|blank_2|>", "<|blank_3|>")),
    *(
        (name, -1.0 - i / 10, 1)
        for i, name in enumerate(["▁", "a", "b", "▁ab", "ab", "问", "问：", "：", "<", "n", ">"])
    ),
    *((name, 0.0, 4) for name in ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")),
]


def test_tokenizer_reads_the_published_file(tmp_path):
    gmask = [name for name, _, _ in PIECES].index("[gMASK]")
    tokenizer = chatglm_tokenizer(sentencepiece_file(tmp_path / "ice_text.model", PIECES), gmask + 5)
    assert (tokenizer.convert_tokens_to_ids("[gMASK]"), tokenizer.bos_token, tokenizer.eos_token) == (
        gmask + 5,
        "<sop>",
        "<eop>",
    )
    cases = {
        "ab": ["▁ab"],
        "问：ab\nab": ["▁", "问：", "ab", "<n>", "ab"],
        "\nab": ["▁", "<n>", "ab"],
        "ab   ab\tb ab": ["▁ab", "<|blank_3|>", "ab", "<|tab|>", "b", "▁ab"],
        "ab[gMASK]<sop>ab": ["▁ab", "[gMASK]", "<sop>", "▁ab"],
    }
    for text, pieces in cases.items():
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == pieces
        assert ids == [5 + [name for name, _, _ in PIECES].index(piece) for piece in pieces]
        if "gMASK" not in text:
            assert tokenizer.decode(ids) == text
    tokenizer.save_pretrained(tmp_path / "saved")
    again = type(tokenizer).from_pretrained(tmp_path / "saved")
    assert all(again(text)["input_ids"] == tokenizer(text)["input_ids"] for text in cases)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="lacks .*gMASK"):
        chatglm_tokenizer(sentencepiece_file(tmp_path / "other.model", PIECES[:9]))
    (tmp_path / "none.model").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="is not a SentencePiece file"):
        chatglm_tokenizer(tmp_path / "none.model")
