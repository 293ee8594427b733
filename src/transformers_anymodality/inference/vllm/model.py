"""The composite as a vLLM model.

vLLM's Transformers backend builds the headless composite, and replaces its layers, attention and head with vLLM's. Our
part are the names of the weights, and media of any modality.
"""

import re
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.transformers import MoEMixin, TransformersMultiModalForCausalLM
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from ...model.configuration import AnyModalityConfig
from ...model.language_model import build_language_model
from ...model.media_encoding import MediaInputs, split_media
from .media import DummyInputs, Info, MediaProcessor


@MULTIMODAL_REGISTRY.register_processor(MediaProcessor, info=Info, dummy_inputs=DummyInputs)
class VLLMComposite(TransformersMultiModalForCausalLM):
    """
    Raises:
        ValueError: vLLM cannot run the composite as Transformers does.
    """

    def __new__(cls, *, vllm_config: VllmConfig, **kwargs):
        moe = vllm_config.model_config.is_moe
        return super().__new__(VLLMCompositeOfExperts if moe else cls)

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        config = vllm_config.model_config.hf_config
        check(config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.hf_to_vllm_mapper = WeightsMapper(orig_to_new_regex=weight_names(config)) | self.hf_to_vllm_mapper

    def embed_multimodal(self, **kwargs) -> list[torch.Tensor]:
        """Tokens of media, `(tokens, hidden)` each. vLLM calls this for one modality at a time."""
        media, _ = split_media(self.config.media_arguments, kwargs)
        return [tokens for modality, inputs in media.items() for tokens in self._encode(modality, inputs)]

    def _encode(self, modality: str, inputs: MediaInputs) -> list[torch.Tensor]:
        """`inputs`: the rows of each medium, `(media, rows, ...)`, or a list of those."""
        if any(isinstance(value, list) for value in inputs.values()):  # media of several shapes
            alone = zip(*inputs.values(), strict=True)
            items = [{name: value[None] for name, value in zip(inputs, one, strict=True)} for one in alone]
            return [tokens for item in items for tokens in self._encode(modality, item)]
        inputs = {name: value.flatten(0, 1) for name, value in inputs.items()}
        output = self.model.get_modality_features(modality, **inputs, return_dict=True)
        if output.token_mask is not None:
            raise ValueError(_HIDES.format(modality))
        return list(output.pooler_output)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Placeholders are never generated."""
        logits = super().compute_logits(hidden_states)
        if logits is not None:
            logits[..., self.config.placeholder_ids] = -torch.inf
        return logits


class VLLMCompositeOfExperts(MoEMixin, VLLMComposite):  # ty: ignore[inconsistent-mro]  where vLLM is not installed
    """A composite whose language model has experts."""


_HIDES = (
    "The aligner of {!r} has tokens that the language model must not see, but vLLM's attention sees all. Serve this model "
    "with `anymodality serve`."
)


def check(config: AnyModalityConfig) -> None:
    """Raises ValueError if vLLM cannot run the composite."""
    if config.references:
        raise ValueError(
            "This is a light checkpoint, but vLLM reads weights from one folder: save the model in full "
            "(save_pretrained with light=False)."
        )
    if config.reads_input_ids:
        raise ValueError(
            f"{type(config.text_config).__name__}: this language model reads ids for more than their embeddings, but vLLM "
            "gives only embeddings. Serve this model with `anymodality serve`."
        )
    for name in config.modalities:
        if config.aligner_config(name).sum_neighbours:
            raise ValueError(_HIDES.format(name))


def weight_names(config: AnyModalityConfig) -> dict[re.Pattern, str]:
    """Patterns of names in our checkpoints -> their names in the headless composite with vLLM's head."""
    with torch.device("meta"):
        causal: Any = build_language_model(config.text_config)
    head = next(name for name, module in causal.named_modules() if module is causal.get_output_embeddings())
    return {
        re.compile(rf"^language_model\.{re.escape(head)}\."): "lm_head.",
        re.compile(rf"^language_model\.{re.escape(causal.base_model_prefix)}\."): "language_model.",
    }
