"""Every private or unstable name of other libraries that we use, and why. Other modules import them from here.

The imports and `HOOKS` below are the list. A name without a version is in all versions that we support. Names that only
the server and the demo need are in `upstream_serving` and `upstream_demo`, because they need extras.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import transformers

# The HTTP client of the Hub's own library, under a name that stays the same across its major versions.
from huggingface_hub.utils import httpx
from packaging.version import Version
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# DeepSpeed's settings, which say whether weights are sharded over processes when they are created.
from transformers.integrations import deepspeed

# The cache's argument has another name since 5.24.
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

# The classes for a config. Pipelines and `transformers serve` look up names in `*_NAMES`: we add ours there.
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING,
)
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

# How transcripts are normalised before they are compared.
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

# Merges for a tokenizer whose file has none.
from transformers.tokenization_utils_base import generate_merges
from transformers.utils import logging

# A chat's template: what it reads and returns.
from transformers.utils.chat_template_utils import _get_template_variables, render_jinja_template

# How forwards in Transformers' style read their flags, and return tuples or hidden states if requested.
from transformers.utils.generic import can_return_tuple, is_flash_attention_requested, merge_with_config_defaults

# The commit of a cached file, and the files of a sharded checkpoint.
from transformers.utils.hub import extract_commit_hash, get_checkpoint_shard_files
from transformers.utils.output_capturing import capture_outputs

from . import upstream_older


try:  # since 5.23: a layer of a cache that keeps no keys, and is not used for the cache's length
    from transformers.cache_utils import DummyLayer
except ImportError:
    from .upstream_older import DummyLayer
try:  # since 5.20: text of a chat that holds typed control tokens
    from transformers.utils.chat_template_utils import _encode_chat_piece
except ImportError:
    from .upstream_older import _encode_chat_piece


# Private names of classes that we override, read, or pass on to the language model. Class -> name -> why.
HOOKS: dict[str, dict[str, str]] = {
    "transformers.GenerationMixin": {
        "_expand_multimodal_outputs": "beams and several answers repeat what was encoded",
        "_get_logits_processor": "placeholders are never generated",
        "_get_stopping_criteria": "the server gives the processor for the tokenizer",
        "_maybe_prepare_encoder_kwargs_for_generation": "media are encoded once, before the first step",
        "_prepare_cache_for_generation": "the cache is the language model's",
        "_prepare_position_ids_for_generation": "positions are the language model's",
        "_update_model_kwargs_for_generation": "the language model decides what the next step gets",
        "_validate_model_kwargs": "media are known arguments",
    },
    "transformers.PreTrainedConfig": {"_attn_implementation": "which attention a part runs with"},
    "transformers.PreTrainedModel": {
        "_can_compile_fullgraph": "tracing has no graph breaks",
        "_can_record_outputs": "which modules give hidden states and attentions",
        "_init_weights": "fills weights that are not in a checkpoint",
        "_initialize_weights": "fills modules without weights, which are skipped below foreign classes",
        "_is_stateful": "assisted decoding asks whether a cache can be cut",
        "_input_embed_layer": "where a tower's embeddings are",
        "_keys_to_ignore_on_load_missing": "weights that a part alone does not need",
        "_keys_to_ignore_on_load_unexpected": "weights of a checkpoint that a part alone does not need",
        "_loss_function": "a loss that is set temporarily is removed again",
        "_no_split_modules": "what device maps and FSDP keep in one piece",
        "_skip_keys_device_placement": "the cache stays where it is",
        "_supports_attention_backend": "attention is looked up by name",
        "_supports_context_parallel": "whether the sequence may be cut between processes",
        "_supports_flash_attn": "whether this attention may be asked for",
        "_supports_flex_attn": "whether this attention may be asked for",
        "_supports_sdpa": "whether this attention may be asked for",
        "_tied_weights_keys": "aligners may share modules",
        "_upload_modified_files": "no file of ours is copied into repositories on the Hub",
        "_weight_conversions": "how quantised weights were read; saving tries to undo it and cannot",
    },
    "transformers.ProcessorMixin": {
        "_get_arguments_from_pretrained": "sub-processors are named by the table of modalities",
    },
    "transformers.BaseVideoProcessor": {"_preprocess": "how a video's frames become pixels"},
    "trl.RewardTrainer": {"_prepare_dataset": "records go to the collator as they are"},
    "trl.SFTTrainer": {"_is_vision_dataset": "whether records go to the collator as they are"},
    "trl.GRPOTrainer": {
        "_generate_and_score_completions": "turns records into the loss's inputs",
        "_get_per_token_logps_and_entropies": "where the loss calls the model",
        "_logs": "prompts that trackers get",
        "_tokenize_prompts": "turns chats into the inputs of `generate`",
    },
    # Meant to be overridden or called, although the names look private.
    "evaluate.EvaluationModule": {"_compute": "a metric's scores", "_info": "a metric's inputs"},
    "lmms_eval.api.model.lmms": {
        "_apply_system_prompt": "the system prompt is added to the chat",
        "_resolve_system_prompt": "the system prompt may be a file",
    },
    "vllm.multimodal.parse.MultiModalDataParser": {"_get_subparsers": "media of every modality"},
    "vllm.multimodal.parse.ProcessorBatchItems": {"_unwrap": "a medium with the bytes that it was read from"},
    "vllm.multimodal.processing.BaseMultiModalProcessor": {
        "_call_hf_processor": "each medium is prepared by itself",
        "_get_mm_fields_config": "which inputs are of which modality",
        "_get_prompt_updates": "the number of tokens of a medium",
    },
}


# --- versions --------------------------------------------------------------------------------------------------------

# The newest Transformers that the full test suite was run with.
NEWEST_TESTED = "5.24"


def warn_if_untested() -> None:
    """Warns about a Transformers newer than the newest tested one: it may have renamed what we use."""
    if Version(transformers.__version__).release[:2] > Version(NEWEST_TESTED).release:
        logging.get_logger(__name__).warning(
            f"transformers-anymodality was tested with Transformers up to {NEWEST_TESTED}, and this is "
            f"{transformers.__version__}. If something fails, try: pip install 'transformers<={NEWEST_TESTED}.99'"
        )


# --- the language model's cache --------------------------------------------------------------------------------------

# Its name in forwards, outputs, `generate` and masks: `cache` since 5.24; before that `past_key_values`, and
# `cache_params` of recurrent models.
CACHE_NAMES = ("cache", "past_key_values", "cache_params")
# The name to write.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


# Whether a prefill in chunks (`prefill_chunk_size`) gives each chunk only the media of its placeholders.
CHUNKS_MEDIA = Version(transformers.__version__) >= Version("5.23")


# --- configs and models ----------------------------------------------------------------------------------------------


def set_attention(config: PreTrainedConfig, name: str | None) -> None:
    """Sets it in this config and its sub-configs."""
    config._attn_implementation = name


def build(cls: type[PreTrainedModel], config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
    """A model of this class with random weights, in the config's dtype and attention."""
    return cls._from_config(config, **kwargs)


def is_initialized(module: Any) -> bool:
    """Whether a module's weights are initialised; only Transformers' models have this mark."""
    return getattr(module, "_is_hf_initialized", False)


def set_initialized(module: Any, value: bool = True) -> None:
    module._is_hf_initialized = value


def adapters_of_rows(module: Any) -> list[str] | None:
    """The adapter of each row, as one of PEFT's hooks sets it for one call (`adapter_names`); None if there is none."""
    told = (getattr(hook, "keywords", {}).get("adapter_names") for hook in module._forward_pre_hooks.values())
    return next((names for names in told if names is not None), None)


def is_offloaded(model: Any) -> bool:
    """Whether accelerate loads weights of a model from CPU or disk when they are needed."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


@contextmanager
def without_deepspeed() -> Iterator[None]:
    """Within, models are built and loaded in full in each process, also if DeepSpeed ZeRO-3 shards them afterwards.

    Otherwise Transformers shards each weight when it is created. Some models cannot be built that way (they compute
    positions from a shape that is empty then), and parts cannot be tried, cut and grown.
    """
    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


# In names of methods and of training arguments for recomputing activations in the backward pass: "activation" since 5.23,
# before that "gradient".
_RECOMPUTED = "activation" if hasattr(PreTrainedModel, "activation_checkpointing_enable") else "gradient"
CHECKPOINTING = f"{_RECOMPUTED}_checkpointing"


def set_checkpointing(model: PreTrainedModel, enabled: bool, **kwargs: Any) -> None:
    getattr(model, f"{CHECKPOINTING}_{'enable' if enabled else 'disable'}")(**kwargs)


def registered_processors() -> Iterator[type]:
    """Registered classes that prepare media. Only they are in `_extra_content`, by backend or bare."""
    for table in (IMAGE_PROCESSOR_MAPPING, VIDEO_PROCESSOR_MAPPING, FEATURE_EXTRACTOR_MAPPING):
        for entry in table._extra_content.values():
            yield from entry.values() if isinstance(entry, dict) else [entry]


def trackers(callbacks: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The callbacks of a Trainer that report to a tracker, with its name in `report_to`."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK  # slow to import

    for callback in callbacks:
        for name, kind in INTEGRATION_TO_CALLBACK.items():
            if isinstance(callback, kind):
                yield name, callback


# --- tokenizers and chats --------------------------------------------------------------------------------------------

template_variables = _get_template_variables
encode_chat_piece = _encode_chat_piece


def name_special_token(tokenizer: PreTrainedTokenizerBase, name: str, token: str) -> None:
    """Makes `token` the tokenizer's attribute `name`, which is saved with it."""
    tokenizer._set_model_specific_special_tokens({name: token})
