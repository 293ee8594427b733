"""AnyMAL, of which nothing was released: its table of sizes, and where media stand in its prompts."""

import pytest
import torch
from transformers import AutoModel

from modeling_tests import tiny
from modeling_tests.tiny_systems import byte_tokenizer, system
from transformers_anymodality.aligners import ALIGNERS
from transformers_anymodality.systems import anymal


USER = {
    "role": "user",
    "content": [
        {"type": "imu", "imu": torch.zeros(1000, 6).numpy()},
        {"type": "text", "text": "What is it?"},
        {"type": "image", "image": torch.zeros(40, 40, 3, dtype=torch.uint8).numpy()},
    ],
}


def test_prompt_is_llama_2s_with_media_behind_the_words():
    _, processor = system("anymal")
    chat = [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": "A shoe."},
        {"role": "user", "content": "Whose?"},
    ]
    assert processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is it? <imu><image> [/INST] A shoe. </s><s>[INST] Whose? [/INST]"
    )
    ids, said = processor.encode_chat(chat)
    learned = processor.tokenizer.decode([token for token, mine in zip(ids, said, strict=True) if mine])
    assert learned == " A shoe. </s>"


def test_a_tokenizers_own_template_stays():
    language, tokenizer = tiny.language_model(), tiny.tokenizer()
    arguments = anymal(language, tokenizer, modalities=["imu", "image"])
    rendered = tokenizer.apply_chat_template(
        [USER],
        chat_template="{%- set media_tokens = {'imu': '<imu>', 'image': '<image>'} -%}" + arguments["chat_template"],
        tokenize=False,
    )
    assert rendered == "user : What is it? <imu><image> "
    assert list(arguments["modalities"]) == ["image", "imu"]
    with pytest.raises(ValueError, match="has no smell"):
        anymal(language, tokenizer, modalities=["smell"])


def test_published_sizes():
    """One linear layer makes all tokens of a pooled feature; resamplers are six and four layers deep."""
    arguments = anymal(None, byte_tokenizer())
    hidden, counts = arguments["language_model"].hidden_size, {}
    for name, row in arguments["modalities"].items():
        length = 1 if row["select_feature"] == "pooled" else None
        fields = {key: value for key, value in row["aligner"].items() if key != "type"}
        size = row["tower"].hidden_size
        config = ALIGNERS[row["aligner"]["type"]].config_class(
            feature_size=size, hidden_size=hidden, feature_length=length, **fields
        )
        with torch.device("meta"):
            aligner = AutoModel.from_config(config)
        counts[name] = config.count_tokens(1, length or 577)
        if name in ("audio", "imu"):
            assert aligner.num_parameters() == (size + 1) * 32 * 5120
        else:
            assert len(aligner.layers) == {"image": 6, "video": 4}[name]
    assert counts == {"image": 64, "audio": 32, "video": 32, "imu": 32}
    assert arguments["modalities"]["video"]["tower"].num_frames == 8
