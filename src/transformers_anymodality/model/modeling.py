"""The composite model: towers and aligners feed their tokens into the embeddings of a complete causal language model.

Media of one modality are one flat batch of items, in the order of their placeholders over (row, position).
Children are direct and their names are public API: `<modality>_tower`, `<modality>_aligner`, `language_model`.
"""

import re
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from ..towers import build_tower, drop_unread, is_trained, watch_last_layer
from ..utils.hooks import standing_hook
from ..utils.part_model import PartModel
from ..utils.upstream import CACHE_NAME, CACHE_NAMES, can_return_tuple, set_initialized
from .adapters import trained_copies
from .by_size import INPUT_SIZES
from .checkpoint import CheckpointMixin
from .configuration import AnyModalityConfig
from .generation import AnyModalityGenerationMixin
from .language_model import (
    build_language_model,
    causal_class,
    embedding_gives,
    forward_parameters,
    headless,
    without_placeholders,
)
from .loss import LOSS_ARGUMENTS, has_causal_loss, only_supervised
from .media_encoding import MediaEncodingMixin, cache_length, cache_of, hide, split_media
from .outputs import OUTPUTS, prepare_outputs


class AnyModalityPreTrainedModel(CheckpointMixin, MediaEncodingMixin):
    """Builds and runs the shared part of the causal and the headless composite: from media to embeddings."""

    supports_gradient_checkpointing = True
    _skip_keys_device_placement = list(CACHE_NAMES)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _supports_context_parallel = False  # a share of the sequence would not match its media

    def __init__(self, config: AnyModalityConfig, parts: dict[str, PreTrainedModel] | None = None):
        """`parts`: loaded children by name; those not given are built from their config with random weights."""
        super().__init__(config)
        parts = dict(parts or {})
        for part in parts.values():
            for module in part.modules():
                set_initialized(module)  # post_init below must not initialise their weights again
        for name, modality in config.modalities.items():
            if modality.tower == name:
                tower = parts.pop(f"{name}_tower", None) or build_tower(config.tower_config(name))
                drop_unread(tower, modality.unread)
                self.add_module(f"{name}_tower", tower)
            if modality.aligner == name:
                aligner = parts.pop(f"{name}_aligner", None)
                self.add_module(f"{name}_aligner", aligner or AutoModel.from_config(config.aligner_config(name)))
        self._share_modules()
        # Last, because quantisers skip the head of the last module.
        self.language_model = parts.pop("language_model", None) or self._build_language_model()
        if parts:
            raise ValueError(f"Parts {sorted(parts)} do not belong to a model of {', '.join(config.modalities)}.")
        self.input_modalities = [*config.modalities, "text"]
        self._media_arguments = config.media_arguments
        self._summing = [name for name in config.modalities if config.aligner_config(name).sum_neighbours]
        self._prepare_to_be_traced()
        # Transformers' towers are not checked: they support it, but few of their classes say so.
        asked = [part for part in self.children() if isinstance(part, PartModel) or part is self.language_model]
        whole = all(part._can_compile_fullgraph for part in asked)
        # The number of tokens or features would be known only from data.
        self._can_compile_fullgraph = whole and not any(
            one.packed
            or INPUT_SIZES in one.inputs.values()
            or (one.num_frames is None and not config.aligner_config(name).gives_equal_counts)
            for name, one in config.modalities.items()
        )
        self.post_init()
        # Classes name all modules that they may have (such as a text encoder); Accelerate's FSDP needs existing ones.
        there = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = sorted(there.intersection(self._no_split_modules or ()))

    def _build_language_model(self) -> PreTrainedModel:
        raise NotImplementedError

    def _prepare_to_be_traced(self) -> None:
        """Does in advance what forward cannot do while torch.compile or torch.export traces it."""
        language = type(self.language_model)
        self._takes, self._has_causal_loss = forward_parameters(language), has_causal_loss(language)
        prepare_outputs(language)
        self._reads_input_ids = self.config.reads_input_ids  # reading a config is as slow as a small operator
        if self._reads_input_ids:
            standing_hook(self.language_model.get_input_embeddings())
        for name in self.config.owners("tower"):
            if self.config.modalities[name].select_layer is not None:
                watch_last_layer(self.tower(name))

    def _share_modules(self) -> None:
        """Aligners that borrow a submodule from another modality's aligner share that module, also in PEFT's copies.

        Its weights are trained and saved once.
        """
        self._shared_weights: dict[str, str] = {}
        for name in self.config.owners("aligner"):
            for module, lender in (self.config.aligner_config(name).shares or {}).items():
                own, lent = trained_copies(self.aligner(name)), trained_copies(self.aligner(lender))
                shapes, wanted = _shapes(lent[None].get_submodule(module)), _shapes(own[None].get_submodule(module))
                if shapes != wanted:
                    raise ValueError(
                        f"The aligner of {name!r} shares `{module}` with that of {lender!r}, but their shapes differ. "
                        "Give both the same sizes, or do not share."
                    )
                for adapter, copy in own.items():
                    copy.set_submodule(module, lent.get(adapter, lent[None]).get_submodule(module))
                source = f"{self.config.modalities[lender].aligner}_aligner.{module}"
                self._shared_weights |= {f"{name}_aligner.{module}.{key}": f"{source}.{key}" for key in shapes}
        if self._shared_weights:
            self._tied_weights_keys = {**(self._tied_weights_keys or {}), **self._shared_weights}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if not name.endswith("_aligner"):
            return
        if self.__dict__.get("_shared_weights"):
            self._share_modules()  # PEFT replaces aligners by copies, one by one
        if isinstance(value, nn.Module) and len(trained_copies(value)) > 1:
            self.config.note_trained([name, "language_model"])  # merged adapters leave no other trace

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """As usual, and modules that aligners share, which do not depend on `tie_word_embeddings`."""
        return {**super().get_expanded_tied_weights_keys(all_submodels), **self._shared_weights}

    # --- parts ---------------------------------------------------------------------------------------------------

    @property
    def part_names(self) -> list[str]:
        """Names of the direct children, in order."""
        return [name for name, _ in self.named_children()]

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """A modality's tower; the model itself if there is none, as in all of Transformers."""
        return self.tower(modality) if modality in self.config.modalities else self

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def get_submodule(self, target: str) -> nn.Module:
        # PEFT reads the embeddings for its prompts here; otherwise it would use a table of the first part, a tower.
        return self.get_input_embeddings() if target == "embeddings.word_embeddings" else super().get_submodule(target)

    def train(self, mode: bool = True):
        """As usual, but frozen towers stay in eval mode: no dropout, no batch statistics, no stochastic depth."""
        super().train(mode)
        for name in self.config.owners("tower"):
            if not is_trained(self.tower(name)):
                self.tower(name).eval()
        return self

    def __getattr__(self, name: str) -> Any:
        # `get_image_features` and the like, which tools use, for all modalities.
        if name.startswith("get_") and name.endswith("_features"):
            modality = name[len("get_") : -len("_features")]
            if modality in self.config.modalities:
                return partial(self.get_modality_features, modality)
        return super().__getattr__(name)

    # --- forward -------------------------------------------------------------------------------------------------

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs,
    ) -> ModelOutput | tuple:
        """Media -> towers -> aligners -> places in the embeddings -> language model.

        Args:
            input_ids: `(batch, sequence)` with the placeholders of each medium.
            attention_mask: `(batch, sequence)`; padding may be on either side.
            mm_encoder_outputs: modality -> media encoded before (an output of `get_modality_features`, or its tokens
                `(items, tokens, hidden)`), instead of media.
            kwargs: media by the names of their model inputs (`pixel_values`, `imu_values`, ...), or their tower's
                features (`<modality>_features`), and all arguments of the language model's own forward.

        Returns:
            The language model's own output, with `modality_hidden_states`: modality -> the tokens that replaced its
            placeholders, `(items, tokens, hidden)`. A decoding step (one id and a cache) does not have these.
        """
        media, arguments = split_media(self._media_arguments, kwargs)
        cache = cache_of(arguments)
        given = inputs_embeds if input_ids is None else input_ids
        # While tokens are generated one by one, there are no media to encode or place.
        new = 0 if given is None else given.shape[1]
        decoding = cache is not None and new == 1
        placing = media or mm_encoder_outputs or inputs_embeds is not None or self._reads_input_ids
        straight = decoding and not placing
        unseen = tokens = None
        if not straight:
            encoded, dummies = self.encode_media(media, {} if decoding else mm_encoder_outputs, given)
            placed = self.place_media(input_ids, inputs_embeds, encoded)
            inputs_embeds = _with_weight_zero(placed.inputs_embeds, dummies)
            unseen, tokens = placed.unseen, placed.tokens or None
        attention_mask = hide(unseen, attention_mask, cache, new)
        if cache is None:
            # A loss does not need a cache, which hides the starts of packed samples from Transformers' masks.
            packed = "labels" in arguments and position_ids is not None and attention_mask is None
            can_do_without = {"use_cache", "kwargs"} & self._takes and hasattr(self.language_model.config, "use_cache")
            if can_do_without and (self.training or packed):
                arguments.setdefault("use_cache", False)
        else:  # PEFT's prompts use its old name, for every language model
            name = next((name for name in CACHE_NAMES if name in self._takes), CACHE_NAME)
            arguments = {name if key in CACHE_NAMES else key: value for key, value in arguments.items()}
        if position_ids is None and "position_ids" in self._takes:
            position_ids = _positions(attention_mask, new, cache)
        if position_ids is not None:
            arguments["position_ids"] = position_ids
        if straight and "labels" not in arguments:
            # In one step: building another output is as slow as a small layer.
            return self.language_model(
                input_ids=input_ids, attention_mask=attention_mask, **arguments, return_dict=True
            )
        output = self._run_language_model(input_ids, inputs_embeds, attention_mask=attention_mask, **arguments)
        return OUTPUTS[type(output)](**output, modality_hidden_states=tokens)

    def _run_language_model(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, **arguments: Any
    ) -> ModelOutput:
        """The language model on embeddings; on ids, if there are no embeddings or it reads ids for more."""
        if inputs_embeds is None:
            return self.language_model(input_ids=input_ids, **arguments, return_dict=True)
        if not self._reads_input_ids:
            return self.language_model(inputs_embeds=inputs_embeds, **arguments, return_dict=True)
        if input_ids is None:
            raise ValueError(
                f"{type(self.language_model).__name__} reads ids for more than their embeddings: give input_ids, not only "
                "inputs_embeds. Methods that put embeddings before a text, such as prompt tuning, do not work."
            )
        with embedding_gives(self.language_model.get_input_embeddings(), inputs_embeds):
            ids = without_placeholders(self.config, input_ids)
            return self.language_model(input_ids=ids, **arguments, return_dict=True)


class AnyModalityModel(AnyModalityPreTrainedModel):
    """The headless composite: hidden states instead of logits. Reads the same checkpoints as the causal one."""

    def __init__(self, config: AnyModalityConfig, parts: dict[str, PreTrainedModel] | None = None):
        super().__init__(config, parts)
        # The causal model's head is not used here; all other weights of a checkpoint must be loaded.
        own = {name.partition(".")[0] for name in self.language_model.state_dict()}
        head = rf"^language_model\.(?!(?:{'|'.join(map(re.escape, sorted(own)))})\b)"
        self._keys_to_ignore_on_load_unexpected = {*(self._keys_to_ignore_on_load_unexpected or ()), head}

    @classmethod
    def over(cls, causal: "AnyModalityForCausalLM", body: PreTrainedModel) -> "AnyModalityModel":
        """The headless composite of a causal one, over the same modules; it does not have its own weights.

        `body` is the part of the language model that gives hidden states.
        """
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        # Hooks, and a replaced forward, are for calls of the causal model.
        own = {**model.__dict__, "training": causal.training}
        model.__dict__.update({name: value for name, value in causal.__dict__.items() if name != "forward"} | own)
        model._modules = {**causal._modules, "language_model": body}
        model._prepare_to_be_traced()
        return model

    def _build_language_model(self) -> PreTrainedModel:
        return AutoModel.from_config(self.config.text_config)

    @classmethod
    def _loading_kwargs(cls, config: AnyModalityConfig, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The causal checkpoint stores the bare language model under its class's own prefix."""
        causal = causal_class(config.text_config)
        bare = {rf"^language_model\.{causal.base_model_prefix}\.": "language_model."} if causal else {}
        return {**kwargs, "key_mapping": {**bare, **(kwargs.get("key_mapping") or {})}}


class AnyModalityForCausalLM(AnyModalityGenerationMixin, AnyModalityPreTrainedModel):
    """A complete causal language model that reads media of any modality."""

    @property
    def base_model(self) -> PreTrainedModel:
        """As in every causal language model: the part that gives hidden states to the head (`AnyModalityModel`).

        The composite itself if the language model does not have such a part.
        """
        body = headless(self.language_model)
        return self if body is self.language_model else AnyModalityModel.over(self, body)

    def _build_language_model(self) -> PreTrainedModel:
        return build_language_model(self.config.text_config)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_output_embeddings(value)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        skip_logits: bool | torch.Tensor | None = None,
        **kwargs,
    ) -> ModelOutput | tuple:
        """As `AnyModalityPreTrainedModel.forward`, with a loss.

        Args:
            labels: `(batch, sequence)`, -100 where not supervised. The loss is the language model's own.
            logits_to_keep: as in every Transformers causal language model.
            skip_logits: True asks for the loss only. In training, logits are then computed only where a label is
                supervised, for the same loss in a fraction of the memory, and the output has none. A tensor, as from
                collators, means this only together with `num_items_in_batch`, as from the Trainer's own loss: other
                losses read logits, and get all of them.
        """
        if labels is not None:
            kwargs["labels"] = labels
            alone = skip_logits is True or (skip_logits is not None and kwargs.get("num_items_in_batch") is not None)
            kwargs["loss_alone"] = alone
        if not isinstance(logits_to_keep, int) or logits_to_keep:
            kwargs["logits_to_keep"] = logits_to_keep
        return super().forward(input_ids, attention_mask, position_ids, inputs_embeds, mm_encoder_outputs, **kwargs)

    def _run_language_model(self, input_ids, inputs_embeds, labels=None, loss_alone=False, **arguments) -> ModelOutput:
        run = partial(super()._run_language_model, input_ids, inputs_embeds)
        if labels is None:
            return run(**arguments)
        loss_alone = loss_alone and self.training
        # Liger's loss does not need logits.
        replaced = isinstance(vars(self.language_model).get("forward"), MethodType)
        chosen = {"logits_to_keep", "shift_labels"} & arguments.keys()
        if not self._has_causal_loss:
            # Its own loss is unusual, so the usual one is computed on its logits.
            for_loss = {name: arguments.pop(name) for name in LOSS_ARGUMENTS if name in arguments}
            output = run(**arguments)
            logits = output["logits"].contiguous()
            output["loss"] = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **for_loss)
        elif loss_alone and not chosen and not replaced and not torch.compiler.is_compiling():
            with only_supervised(self.language_model, labels):
                output = run(labels=labels, **arguments)
        else:
            output = run(labels=labels, **arguments)
        if not loss_alone:
            return output
        return type(output)(**{name: value for name, value in output.items() if name != "logits"})


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _positions(attention_mask: torch.Tensor | None, new: int, cache: Any | None) -> torch.Tensor | None:
    """`position_ids` of `new` tokens that skip padding on either side; without a mask of all places, None: the language
    model's own."""
    if attention_mask is None or attention_mask.ndim != 2:
        return None
    if attention_mask.shape[1] != new + cache_length(cache):
        return None
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -new:]


def _with_weight_zero(inputs_embeds: torch.Tensor, dummies: list[torch.Tensor]) -> torch.Tensor:
    """Makes the loss depend on the outputs for dummy items, without changing it."""
    for tokens in dummies:
        nothing = torch.nan_to_num(tokens).sum() * 0
        inputs_embeds = inputs_embeds + nothing.to(inputs_embeds.device, inputs_embeds.dtype)
    return inputs_embeds
