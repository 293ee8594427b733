"""The language model in a composite: its class, its look-up of ids, and room for placeholders in its vocabulary."""

import copy
import inspect
from contextlib import AbstractContextManager, suppress
from functools import lru_cache

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..utils.hooks import standing_hook
from ..utils.registry import models_beside
from ..utils.upstream import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, build
from .configuration import AnyModalityConfig


def causal_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The causal language model of a config, including text sub-configs of multimodal models."""
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # ty: ignore[invalid-explicit-return]  no pair, as of tokenizers
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return next((cls for name, cls in models_beside(type(config)).items() if name in known), None)


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A language model with random weights."""
    cls = None if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else causal_class(config)
    return AutoModelForCausalLM.from_config(config) if cls is None else build(cls, config)


def headless(language: PreTrainedModel) -> PreTrainedModel:
    """The part that gives hidden states to the head: the outermost inner model with the same embeddings.

    The model itself if there is none. `base_model` and `get_decoder` of some models name another part, or none.
    """
    embedding = language.get_input_embeddings()
    for module in language.modules():
        if module is not language and isinstance(module, PreTrainedModel):
            with suppress(NotImplementedError):  # a wrapper that only gives a decoder its name
                if module.get_input_embeddings() is embedding:
                    return module
    return language


@lru_cache
def forward_parameters(cls: type[nn.Module]) -> frozenset[str]:
    """The argument names of a model class's forward."""
    return frozenset(inspect.signature(cls.forward).parameters)


# --- ids and embeddings --------------------------------------------------------------------------------------------


def embedding_gives(embedding: nn.Module, inputs_embeds: torch.Tensor) -> AbstractContextManager[None]:
    """Within, the language model's own look-up of its `input_ids` returns `inputs_embeds`.

    For language models that read ids for more than embeddings (per-layer embeddings, routing by hash).
    """
    return standing_hook(embedding).doing(lambda out: inputs_embeds if out.shape == inputs_embeds.shape else None)


@torch.no_grad()
def reads_input_ids(language: PreTrainedModel) -> bool:
    """Whether the language model needs ids: in eval mode, its output with only embeddings differs or fails.

    Raises:
        ValueError: it does not take embeddings at all, and so cannot read media.
    """
    embedding = language.get_input_embeddings()
    ids = torch.arange(4, 8, device=embedding.get_parameter("weight").device)[None].repeat(2, 1)
    embeds = embedding(ids)
    expected = language(input_ids=ids).logits[0]
    try:
        # The other row is not in the table, like media.
        given = language(inputs_embeds=embeds * torch.tensor([[[1.0]], [[1.01]]]).to(embeds)).logits[0]
        if torch.allclose(given, expected, rtol=1e-3, atol=1e-3):
            return False
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError):
        pass
    with embedding_gives(embedding, embeds.flip(1)):
        if torch.equal(language(input_ids=ids).logits[0], expected):
            raise ValueError(
                f"{type(language).__name__} cannot read media: it does not take embeddings, neither as `inputs_embeds` "
                "nor in place of its own look-up of ids. Choose another language model."
            )
    return True


def without_placeholders(config: AnyModalityConfig, input_ids: torch.Tensor) -> torch.Tensor:
    """Replaces placeholders by padding, for which every table of ids has a row."""
    ids = torch.tensor(config.placeholder_ids, device=input_ids.device)
    padding = getattr(config.get_text_config(), "pad_token_id", None) or 0
    return input_ids.masked_fill(torch.isin(input_ids, ids), padding)


# --- room for placeholders -----------------------------------------------------------------------------------------


def check_growth(language: PreTrainedModel, rows: int) -> dict[str, torch.Size]:
    """The other tensors that must grow with the embeddings (to `rows` rows), so that the new config builds the new model.

    Tried on a model without data. Most models need nothing else; some have a further table, or one more row.

    Returns:
        Tensor's name -> its shape.

    Raises:
        ValueError: the grown model could not be saved and built again.
    """
    if rows <= len(language.get_input_embeddings().get_parameter("weight")):
        return {}
    try:
        with torch.device("meta"):
            grown = type(language)(copy.deepcopy(language.config))
            grown.resize_token_embeddings(rows, mean_resizing=False)
            wanted = type(language)(grown.config).state_dict()
    except AttributeError as error:  # the class does not say where its embeddings are
        raise ValueError(
            f"{type(language).__name__} has embeddings that cannot grow: {error}. {_FREE_TOKENS}"
        ) from error
    state = grown.state_dict()
    shapes = {
        name: tensor.shape for name, tensor in wanted.items() if name not in state or state[name].shape != tensor.shape
    }
    for name, shape in shapes.items():
        if name not in state or state[name].shape[1:] != shape[1:] or state[name].shape[0] > shape[0]:
            raise ValueError(
                f"The embeddings of {type(language).__name__} cannot grow to {rows} rows: its config would then build "
                f"another `{name}`. {_FREE_TOKENS}"
            )
    return shapes


_FREE_TOKENS = (
    'Choose placeholders that its vocabulary already has: set each modality\'s "token" to a token of the tokenizer that '
    "no text uses."
)


@torch.no_grad()
def grow_embeddings(language: PreTrainedModel, rows: int, beside: dict[str, torch.Size]) -> None:
    """Makes room for `rows` tokens; the new rows of embeddings and head are about the mean of the others.

    `beside`: the result of `check_growth`.
    """
    before = len(language.get_input_embeddings().get_parameter("weight"))
    if rows <= before:
        return
    language.resize_token_embeddings(rows, mean_resizing=False)
    for name, shape in beside.items():  # rows of zeros are appended
        tensor, owner = language.get_parameter_or_buffer(name), language.get_submodule(name.rpartition(".")[0])
        tensor.data = torch.cat([tensor.data, tensor.data.new_zeros(shape[0] - len(tensor), *shape[1:])])
        if isinstance(owner, nn.Embedding):
            owner.num_embeddings = shape[0]
    for module in (language.get_input_embeddings(), language.get_output_embeddings()):
        # New rows are never read as inputs; as outputs, the mean disturbs the others' probabilities least. Neighbours differ
        # a little: if embeddings are given without ids, as in prompt tuning, they identify placeholders.
        for name, parameter in module.named_parameters(recurse=False):
            if name in ("weight", "bias") and len(parameter) >= rows:
                mean = parameter[:before].float().mean(0)
                factors = 1 + torch.arange(len(parameter) - before, device=mean.device) % 16 / 64
                parameter[before:] = (factors[:, None] * mean.view(1, -1)).view_as(parameter[before:])
