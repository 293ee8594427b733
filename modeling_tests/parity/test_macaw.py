"""Macaw-LLM: the current graph against recordings of the original; the release's against its steps written out."""

import json
import math

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    WhisperModel,
)

from modeling_tests import tiny
from transformers_anymodality import compose
from transformers_anymodality.conversion import convert
from transformers_anymodality.systems.macaw_llm import DELIMITERS, MacawVideoProcessor, macaw_llm, modalities
from transformers_anymodality.systems.macaw_llm.aligner import MacawAligner, MacawAlignerConfig, sinusoids


def test_current_graph_equals_the_original(recording, converted):
    rec = recording("macaw")
    rec.replay("macaw_llm", converted("macaw_llm", rec.folder))
    rec.finish()


# --- the release's graph, of which there is no recording -----------------------------------------------------------


def attend(weights: dict, name: str, heads: int, query: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """By torch's own attention, its context repeated for each sample as in the original; `(batch, length, size)`."""
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    attention = nn.MultiheadAttention(query.shape[-1], heads, add_bias_kv=True, add_zero_attn=True).eval()
    attention.load_state_dict(own)
    query, context = query.transpose(0, 1), context.expand(len(query), -1, -1).transpose(0, 1)
    return attention(query, context, context)[0].transpose(0, 1)


def release_tokens(model, weights: dict, config: dict, name: str, values: torch.Tensor) -> torch.Tensor:
    """What the code of June 2023 makes of one modality, step by step; towers are Transformers'."""
    heads, mm = config["attention_heads"], config
    if name == "audio":
        tower = WhisperModel(model.config.audio_config).encoder.eval()
        prefix = "audio_encoder.encoder."
    else:
        tower = CLIPVisionModel(getattr(model.config, f"{name}_config")).eval()
        prefix = f"{name}_encoder.vision_model."
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    tower.load_state_dict({key: value for key, value in own.items() if key != "embeddings.position_ids"})
    if name == "video":
        pooled = tower(values.flatten(0, 1)).pooler_output @ weights["video_encoder.visual_projection.weight"].T
        states = pooled.unflatten(0, values.shape[:2]) + weights["temporal_position_embeddings.weight"]
        states = attend(weights, "temporal_self_attention", heads, states, states)
    else:
        states = tower(values).last_hidden_state
        if name == "image":
            states = (states @ weights["image_encoder.visual_projection.weight"].T)[:, 1:]
        kernel, bias = weights[f"project_{name}.weight"], weights[f"project_{name}.bias"]
        states = nn.functional.conv1d(states.transpose(1, 2), kernel, bias, mm[f"{name}_conv_stride"]).transpose(1, 2)
    linear = [weights[f"transform_{name}_to_hidden.{part}"] for part in ("weight", "bias")]
    table = weights["llm.model.embed_tokens.weight"][None]
    return attend(weights, "video_align_attention", heads, nn.functional.linear(states, *linear), table)


@torch.no_grad()
def test_release_graph_equals_its_steps(recording, tmp_path):
    """The file that was released is older than the code: without the self-attention over all patches."""
    rec = recording("macaw")
    weights = rec.weights("weights")
    weights = {name: value for name, value in weights.items() if not name.startswith("video_long_self_attention")}
    if "temporal_position_embeddings.weight" not in weights:
        pytest.skip("the recorded file has no weights of the older graph")
    config = {"model_type": "mm_llms", **rec.config["mm_config"], "llm_config": rec.config["llm_config"]}
    config |= {"image_config": rec.config["clip_config"], "audio_config": rec.config["whisper_config"]}
    (tmp_path / "released").mkdir()
    (tmp_path / "released" / "config.json").write_text(json.dumps(config))
    torch.save(weights, tmp_path / "released" / "pytorch_model.bin")
    report = convert("macaw_llm", tmp_path / "released", tmp_path / "ours")
    assert {"project_video.weight", "image_align_attention.bias_k"} <= set(report.unused)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert model.image_aligner.align_attention is model.video_aligner.align_attention is not None
    for name in ("image", "audio", "video"):
        if (values := rec.inputs.get(f"{name}s")) is None:
            continue
        ours = model.get_modality_features(name, values).pooler_output
        theirs = release_tokens(model, weights, config, name, values)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_tokenizer_without_delimiters_gets_them(recording, tmp_path):
    """LLaMA's own, which users have at hand, lacks the release's tokens; their ids follow those of its words."""
    rec = recording("macaw")
    first = len(rec.weights("weights")["llm.model.embed_tokens.weight"]) - len(DELIMITERS)
    backend = Tokenizer(models.WordLevel({f"word{i}": i for i in range(first)}, unk_token="word0"))
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="word1", eos_token="word2").save_pretrained(
        tmp_path / "llama"
    )
    convert("macaw_llm", rec.folder, tmp_path / "ours", tokenizer=str(tmp_path / "llama"))
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    names = ["<image>", "</image>", "<audio>", "</audio>", "<video>", "</video>"]
    assert processor.tokenizer.convert_ids_to_tokens(range(first, first + 6)) == names == list(DELIMITERS)
    for name in ("image", "audio", "video"):
        assert getattr(processor, f"{name}_token") == f"<{name}_patch>"


# --- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads, queries", [(4, 2), (4, 40), (1, 5)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_torchs(heads, queries, masked):
    """Whether or not keys and values are formed, in values and in gradients, also those of what is attended to."""
    attention = MacawAligner(
        MacawAlignerConfig(feature_size=8, hidden_size=64, align_heads=heads)
    ).align_attention.eval()
    expected = nn.MultiheadAttention(64, heads, add_bias_kv=True, add_zero_attn=True, batch_first=True).eval()
    tiny.spread(attention)
    expected.load_state_dict(attention.state_dict())
    query, context = torch.randn(3, queries, 64), torch.randn(3, 30, 64)
    mask = torch.arange(30) < torch.tensor([[30], [7], [1]]) if masked else None
    results = []
    for run in (
        lambda q, c: attention.out_proj(attention._form(q, c, mask).flatten(2)),
        lambda q, c: attention.out_proj(attention._absorb(q, c, mask).flatten(2)),
        lambda q, c: attention(q, c, mask),
        lambda q, c: expected(q, c, c, key_padding_mask=None if mask is None else ~mask)[0],
    ):
        attention.zero_grad()
        inputs = [query.clone().requires_grad_(), context.clone().requires_grad_()]
        output = run(*inputs)
        output.sin().sum().backward()
        results.append([output, *(tensor.grad for tensor in inputs)])
    for ours in results[:3]:
        for mine, theirs in zip(ours, results[3], strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_attention_drops_out_shares():
    """In training, and in both ways alike: the mean over many draws is what is given without."""
    config = MacawAlignerConfig(feature_size=8, hidden_size=16, align_heads=2, attention_dropout=0.5)
    attention = MacawAligner(config).align_attention
    query, context = torch.randn(1, 3, 16), torch.randn(1, 5, 16)
    expected = attention.eval()._absorb(query, context, None)
    attention.train()
    for way in (attention._form, attention._absorb):
        draws = torch.stack([way(query, context, None) for _ in range(4000)])
        assert draws.std(0).max() > 0.01
        torch.testing.assert_close(draws.mean(0), expected, atol=0.1 * draws.std(0).max().item(), rtol=0)


def test_sinusoids_are_of_the_doubled_exponent():
    table = sinusoids(50, 12)
    for place in range(50):
        for i in range(0, 12, 2):
            angle = place * math.exp(-math.log(10000) / 12 * 2 * i)
            assert table[place, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[place, i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


# --- the system ----------------------------------------------------------------------------------------------------


def system(graph: str, **kwargs):
    towers = {"image": tiny.vision_config(), "video": tiny.vision_config(), "audio": tiny.whisper_config()}
    aligners = {
        "align_heads": 4,
        "attention_heads": 2,
        "image": {"projection_size": 8, "conv_kernel": 4, "conv_stride": 3},
        "audio": {"conv_kernel": 10, "conv_stride": 8},
        "video": {"projection_size": 8, **({} if graph == "release" else {"conv_kernel": 6, "conv_stride": 5})},
    }
    model = tiny.language_model()
    arguments = macaw_llm(model, tiny.tokenizer(None), graph=graph, towers=towers, aligners=aligners, **kwargs)
    return compose(**arguments)


CHAT = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "what is this ?"},
            {"type": "video", "video": torch.arange(13 * 40 * 48 * 3, dtype=torch.uint8).view(13, 40, 48, 3)},
            {"type": "audio", "audio": [0.0, 0.5] * 4000},
            {"type": "image", "image": torch.arange(40 * 48 * 3, dtype=torch.uint8).view(40, 48, 3).numpy()},
        ],
    },
    {"role": "assistant", "content": "red"},
]


@pytest.mark.parametrize("graph, frames", [("release", 6), ("current", 19)])
def test_prompt_is_alpacas_with_media_in_front(graph, frames):
    model, processor = system(graph)
    assert processor.apply_chat_template(CHAT, tokenize=False) == (
        "<image><image_patch></image><audio><audio_patch></audio><video><video_patch></video>"
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nwhat is this ?\n\n### Response:\n red \n\n</s>"
    )
    with_input = [{"role": "user", "content": "what is this ?", "input": "two"}]
    assert processor.apply_chat_template(with_input, tokenize=False, add_generation_prompt=True).endswith(
        "paired with an input that provides further context. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nwhat is this ?\n\n### Input:\ntwo\n\n### Response:"
    )
    inputs = processor.apply_chat_template(CHAT[:1], tokenize=True, return_dict=True, return_tensors="pt")
    words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    front = ["<s>", "<image>", *["<image_patch>"] * 5, "</image>", "<audio>", *["<audio_patch>"] * 6, "</audio>"]
    assert words[: 17 + frames] == [*front, "<video>", *["<video_patch>"] * frames]
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > len(words)


@pytest.mark.parametrize("faithful, learned", [(False, ["red", "</s>"]), (True, ["<unk>", "red"])])
def test_response_is_learned(faithful, learned):
    _, processor = system("release", faithful=faithful)
    ids, said = processor.encode_chat(CHAT)
    words = processor.tokenizer.convert_ids_to_tokens([token for token, mine in zip(ids, said, strict=True) if mine])
    assert words == learned


def test_placeholders_are_no_words():
    """Their rows, behind all others, are not attended to; every other row is."""
    model, processor = system("current")
    table, rows = model.get_input_embeddings().weight, model.image_aligner.config.attended_rows
    assert rows == min(model.config.placeholder_ids)
    pixels = torch.randn(1, 3, 32, 32)
    expected = model.get_image_features(pixels).pooler_output
    with torch.no_grad():
        table[rows:] += 10
    assert torch.equal(model.get_image_features(pixels).pooler_output, expected)
    model.get_image_features(pixels).pooler_output.square().sum().backward()
    assert (table.grad[:rows].abs().sum(-1) > 0).all() and not table.grad[rows:].any()


@pytest.mark.parametrize("graph, video", [("release", 6), ("current", 39)])
def test_published_sizes(graph, video):
    """Tokens per medium, and weights of the parts, as published."""
    features = {"image": (1, 196, 768), "audio": (1, 1500, 512), "video": (6, 1 if graph == "release" else 196, 768)}
    for name, row in modalities(graph, {}, {}).items():
        frames, length, size = features[name]
        fields = {key: value for key, value in row["aligner"].items() if key != "type"}
        config = MacawAlignerConfig(feature_size=size, hidden_size=4096, num_frames=frames, **fields)
        assert config.count_tokens(frames, length) == {"image": 5, "audio": 6, "video": video}[name]
        with torch.device("meta"):
            aligner = AutoModel.from_config(config)
        weights = {part: sum(p.numel() for p in module.parameters()) for part, module in aligner.named_children()}
        assert weights["align_attention"] == 67_133_440
        assert weights["projection"] == 512 * 4096 + 4096
        expected = {"image": 12_583_424, "audio": 62_915_072, "video": 9_437_696}[name]
        assert weights.get("conv", 0) == (0 if graph == "release" and name == "video" else expected)
        assert row["tower"].model_type in ("clip_vision_model", "whisper")


@pytest.mark.parametrize(
    "total, chosen",
    [
        (120, [0, 20, 40, 60, 80, 119]),
        (1000, [0, 160, 320, 480, 640, 999]),
        (60, [0, 10, 20, 30, 40, 59]),
        (1, [0] * 6),
    ],
)
def test_frames(total, chosen):
    assert MacawVideoProcessor().frame_indices(total, 25.0) == chosen
