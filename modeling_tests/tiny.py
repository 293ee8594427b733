"""Tiny composites, made in code: what most tests run on."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessor,
    CLIPVisionConfig,
    PatchTSTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from transformers_anymodality import AnyModalityForCausalLM, AnyModalityProcessor, compose

from .tiny_causal_lms import tiny_causal_lm


WORDS = (
    "<pad> <s> </s> <unk> user : assistant system what is this and that ? zero one two three four five six seven "
    "eight nine yes no big small red green sound picture walk"
).split()

# Architecturally diverse: tied and untied, learned and rotary positions, ALiBi, mixture of experts, state space.
LANGUAGE_MODELS = ("llama", "qwen3", "gpt2", "opt", "bloom", "gemma2", "mixtral", "mamba")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role + ' : ' }}{% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content + ' </s>' }}{% endgeneration %}{% else %}{{ message.content + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)


# Modality -> its argument of the processor's call.
ARGUMENTS = {
    "audio": "audio",
    "depth": "depth",
    "image": "images",
    "imu": "imu",
    "thermal": "thermal",
    "video": "videos",
}


def tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=chat_template,
    )


def language_model(model_type: str = "llama", vocab_size: int = len(WORDS)) -> Any:
    """With random weights that are not near zero, so that outputs differ visibly between inputs."""
    config = tiny_causal_lm(model_type, vocab_size=vocab_size)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    spread(model)
    return model


def spread(module: torch.nn.Module, std: float = 0.1) -> None:
    """Adds noise to every weight that is trained (not to tables of sinusoids): fresh biases and gates are zero, and zero
    hides mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.requires_grad:
                parameter.add_(std * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def vision_config(**kwargs) -> CLIPVisionConfig:
    sizes = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=32)
    return CLIPVisionConfig(**{**sizes, "patch_size": 8, **kwargs})


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def whisper_config() -> WhisperConfig:
    return WhisperConfig(
        d_model=24,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=50,
        num_mel_bins=16,
        vocab_size=30,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )


def feature_extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=16, chunk_length=1)


def wav2vec2_config(norm: str = "layer") -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16, 16, 16),
        conv_stride=(8, 6, 4),
        conv_kernel=(10, 8, 4),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        vocab_size=10,
    )


def imu_config() -> PatchTSTConfig:
    sizes = dict(d_model=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32)
    return PatchTSTConfig(num_input_channels=6, context_length=64, patch_length=16, patch_stride=16, **sizes)


RESAMPLER = {"type": "perceiver_resampler", "depth": 1, "num_heads": 2, "head_dim": 8}


def modalities(*names: str) -> dict[str, Any]:
    """Settings for `compose`; all six built-in modalities if none are named. Depth, thermal and video borrow."""
    settings: dict[str, Any] = {
        "image": {"tower": vision_config(), "processor": image_processor(), "aligner": RESAMPLER, "num_tokens": 3},
        "video": {"tower": "image", "aligner": {**RESAMPLER, "frame_embeddings": 4}, "num_tokens": 2, "num_frames": 3},
        "audio": {
            "tower": whisper_config(),
            "processor": feature_extractor(),
            "aligner": {"type": "mlp", "pool": "stride", "pool_size": 10},
        },
        "imu": {"tower": imu_config(), "aligner": "linear", "num_tokens": 4, "sampling_rate": 32},
        "depth": {"tower": "image", "aligner": "linear", "num_tokens": 2},
        "thermal": {"tower": "image", "aligner": "depth"},
    }
    return {name: settings[name] for name in names or settings}


def composite(
    model_type: str | PreTrainedConfig | Any = "llama", settings: dict[str, Any] | None = None
) -> tuple[AnyModalityForCausalLM, AnyModalityProcessor]:
    """A tiny composite in eval mode, seeded, none of its weights zero."""
    torch.manual_seed(0)
    source = language_model(model_type) if isinstance(model_type, str) else model_type
    model, processor = compose(source, settings or modalities(), tokenizer=tokenizer())
    spread(model)
    return model, processor


def swept(names: list[str]) -> list:
    """Test parameters of a long sweep: one in four runs every time, the others with `-m slow` (or no `-m`)."""
    return [pytest.param(name, marks=[pytest.mark.slow] if i % 4 else []) for i, name in enumerate(names)]


def medium(modality: str, seed: int = 0) -> Any:
    """A dummy input."""
    rng = np.random.default_rng(seed)
    if modality in ("image", "video"):
        shape = (40, 48, 3) if modality == "image" else (5, 40, 48, 3)
        return rng.integers(0, 255, shape, dtype=np.uint8)
    if modality in ("depth", "thermal"):
        return rng.uniform(1, 9, (40, 48)).astype(np.float32)
    if modality == "audio":
        return rng.standard_normal(6000 + 500 * (seed % 8)).astype(np.float32)
    if modality == "speech":
        return rng.standard_normal((5 + seed % 3, 24)).astype(np.float32)
    return rng.standard_normal((40 + seed % 20, 6)).astype(np.float32)


def chat(*parts: str, seed: int = 0, answer: str | None = None) -> list[dict]:
    """A chat: each part is the name of a modality (a medium of it) or words."""
    content = []
    for i, part in enumerate(parts):
        known = part in ARGUMENTS
        content.append(
            {"type": part, part: medium(part, seed + i)} if known else {"type": "text", "text": f" {part} "}
        )
    messages = [{"role": "user", "content": content}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


CHATS = [
    chat("image", "what is this ?"),
    chat("what is this and that ?", seed=1),
    chat("audio", "and", "imu", "image", "what is that ?", "image", seed=2),
    chat("video", "depth", "what", "thermal", seed=3),
]


def inputs(processor: AnyModalityProcessor, *chats: list[dict], **kwargs) -> Any:
    return processor.apply_chat_template(
        list(chats), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
    )
