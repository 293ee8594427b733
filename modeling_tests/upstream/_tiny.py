"""The composites that upstream's tests run on: small language models with image, video, sound and motion towers."""

import copy
from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaOnevisionVideoProcessor,
    PatchTSTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SiglipVisionConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    set_seed,
)
from transformers.testing_utils import torch_device

from transformers_anymodality import AnyModalityConfig, AnyModalityForCausalLM, AnyModalityProcessor, compose


CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- message.role + ': ' -}}
{%- if message.content -%}{{- message.content -}}{%- endif -%}
{%- for call in message.tool_calls or [] -%}{{- '(' + call.function.name + ')' -}}{%- endfor -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"""
# Low ids: upstream shrinks vocabularies from the end, and draws random ids below 5 where it lengthens inputs.
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "a", "<image>", "<video>", "<audio>", "<imu>"]
LAYERS = 2


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte: whatever is written can be read back."""
    alphabet = SPECIAL + [symbol for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()) if symbol not in SPECIAL]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    pad, bos, eos, unk = SPECIAL[:4]
    tokens = {"pad_token": pad, "bos_token": bos, "eos_token": eos, "unk_token": unk}
    tokens["extra_special_tokens"] = SPECIAL[5:]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **tokens, padding_side="left", chat_template=CHAT_TEMPLATE
    )


def _language_model(config_class: type, **kwargs):
    return config_class(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **kwargs,
    )


def _vision(config_class: type, layers: int = LAYERS, **kwargs):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    return config_class(num_hidden_layers=layers, **sizes, **kwargs)


def _sound() -> WhisperConfig:
    return WhisperConfig(
        d_model=16,
        encoder_layers=LAYERS,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=20,
        num_mel_bins=8,
        vocab_size=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )


def _motion() -> PatchTSTConfig:
    return PatchTSTConfig(
        num_input_channels=6,
        context_length=32,
        patch_length=8,
        patch_stride=8,
        d_model=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        ffn_dim=32,
    )


def _images() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)


def _videos() -> LlavaOnevisionVideoProcessor:
    return LlavaOnevisionVideoProcessor(size={"height": 16, "width": 16})


@cache
def composed(*names: str) -> tuple[AnyModalityForCausalLM, AnyModalityProcessor]:
    """Each modality with a tower and an aligner of its own, but for videos, which borrow both from images.

    Args:
        names: modalities, of image, video, audio and imu; all of them if none is given.
    """
    set_seed(0)
    resampler = {"type": "perceiver_resampler", "depth": 1, "num_heads": 2, "head_dim": 8}
    towers = {
        "image": {"tower": _vision(SiglipVisionConfig, vision_use_head=False), "aligner": resampler, "num_tokens": 3},
        "video": {"tower": "image", "num_frames": 2, "aligner": "image", "processor": _videos()},
        "audio": {"tower": _sound(), "aligner": {"type": "mlp", "pool": "stride", "pool_size": 10}},
        "imu": {"tower": _motion(), "aligner": "linear", "num_tokens": 2, "sampling_rate": 32},
    }
    towers["image"]["processor"] = _images()
    towers["audio"]["processor"] = WhisperFeatureExtractor(feature_size=8, chunk_length=4, hop_length=1600)
    towers = {name: towers[name] for name in names or towers}
    return compose(_language_model(LlamaConfig), towers, tokenizer=tokenizer())


@cache
def composed_tied() -> tuple[AnyModalityForCausalLM, AnyModalityProcessor]:
    """Tied embeddings, a tower that is cut in front of its last layer, its patches only, and a Q-Former."""
    set_seed(0)
    qformer = {"type": "qformer", "depth": 2, "num_heads": 2, "qformer_hidden_size": 16, "intermediate_size": 32}
    tower = _vision(CLIPVisionConfig, layers=LAYERS + 1)
    image = {"tower": tower, "select_layer": -2, "select_feature": "patches", "aligner": qformer, "num_tokens": 3}
    language = _language_model(Qwen3Config, head_dim=8, tie_word_embeddings=True)
    return compose(language, {"image": {**image, "processor": _images()}}, tokenizer=tokenizer())


class TinyModelTester:
    """What `ModelTesterMixin` asks: configs, and inputs with one medium of each modality in every row."""

    is_training = True
    batch_size = 3
    num_hidden_layers = LAYERS
    text_tokens = 7

    def __init__(self, parent, composite=composed):
        self.parent = parent
        model, processor = composite()
        # From its dict, because the attention that a built model settled on stays in its config.
        self._config = model.config.to_dict()
        text = model.config.text_config
        self.hidden_size, self.num_attention_heads = text.hidden_size, text.num_attention_heads
        self.vocab_size, self.pad_token_id = text.vocab_size, text.pad_token_id
        self.counts = {name: own.num_tokens for name, own in processor.modalities.items()}
        self.seq_length = self.encoder_seq_length = self.key_length = self.text_tokens + sum(self.counts.values())
        self.causal_lm_class = AnyModalityForCausalLM

    def get_config(self) -> AnyModalityConfig:
        return AnyModalityConfig.from_dict(copy.deepcopy(self._config))

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        spans = [torch.full((self.batch_size, n), config.modalities[name].token_id) for name, n in self.counts.items()]
        text = torch.randint(len(SPECIAL), 200, (self.batch_size, self.text_tokens))
        ids = torch.cat([text[:, :2], *spans, text[:, 2:]], dim=1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for row in config.modalities.values():
            inputs[row.main_input] = torch.rand(self.batch_size, *row.input_shape) - 0.5
        return config, {name: tensor.to(torch_device) for name, tensor in inputs.items()}
