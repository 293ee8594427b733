"""Generation: media are encoded once, before the prefill; the cache and the next inputs are the language model's.

Each method overrides a hook of `GenerationMixin` that knows only images and videos, or that depends on class names.
"""

from itertools import accumulate
from typing import Any

import torch
import transformers
from transformers import GenerationMixin, LogitsProcessorList, SuppressTokensLogitsProcessor

from ..utils.upstream import CACHE_NAMES, CHUNKS_MEDIA
from .frames import take_items
from .media_encoding import MediaEncodingMixin, MediaInputs, cache_length, cache_of, hide, split_media
from .outputs import EncodedMedia


class AnyModalityGenerationMixin(MediaEncodingMixin, GenerationMixin):
    language_model: Any  # a generating model of Transformers

    def generate(self, inputs: torch.Tensor | None = None, *args, labels: torch.Tensor | None = None, **kwargs) -> Any:
        """As usual; also from a training batch.

        Args:
            labels: `(batch, sequence)`, -100 where not supervised. Each row is then cut before its last supervised part,
                and only the answers are returned, `(batch, new tokens)`, which `Seq2SeqTrainer` compares with labels.
        """
        if labels is None:
            return super().generate(inputs, *args, **kwargs)
        ids = kwargs.pop("input_ids") if inputs is None else inputs
        mask = kwargs.pop("attention_mask", torch.ones_like(ids))
        starts = torch.diff((labels != -100).long(), prepend=torch.zeros_like(labels[:, :1])) == 1
        places = torch.arange(labels.shape[1], device=labels.device)
        ends = torch.where(starts.any(1), (starts * places).amax(1), labels.shape[1])
        length = int(ends.max())
        source = places[:length] - (length - ends)[:, None]  # padding is on the left, and masked
        ids, mask = (value.gather(1, source.clamp(min=0)).masked_fill(source < 0, 0) for value in (ids, mask))
        output = super().generate(ids, *args, attention_mask=mask, **kwargs)
        if isinstance(output, torch.Tensor):
            return output[:, length:]
        output.sequences = output.sequences[:, length:]
        return output

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, is_first_iteration=False, **kwargs):
        encoded = kwargs.pop("mm_encoder_outputs", None)
        inputs = self.language_model.prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if encoded is not None and (is_first_iteration or self._reads_media_again(inputs, encoded, kwargs)):
            inputs["mm_encoder_outputs"] = encoded
        if "prepare_inputs_for_generation" in vars(self):  # PEFT's prompts use the cache's old name
            inputs = {"past_key_values" if name in CACHE_NAMES else name: value for name, value in inputs.items()}
            if self._is_stateful and kwargs.get("use_cache", True):
                raise ValueError(
                    f"{type(self.language_model).__name__} carries a state from token to token, which does not work with "
                    "PEFT's prompts. For prompt tuning and P-tuning set use_cache=False; prefix tuning cannot generate."
                )
            if kwargs.get("use_cache") is False and inputs.get("past_key_values") is not None:
                raise ValueError("PEFT keeps the prefix of prefix tuning in the cache: leave out use_cache=False.")
        return inputs

    def _reads_media_again(self, inputs: dict[str, Any], encoded: dict[str, Any], kwargs: dict[str, Any]) -> bool:
        """Whether later steps need the media again, as without a cache."""
        input_ids = inputs.get("input_ids")
        if input_ids is None or not encoded:
            return not kwargs.get("use_cache", True)
        if input_ids.shape[1] == 1:  # never a placeholder; this saves a synchronisation at each step
            return False
        ids = [self.config.modalities[modality].token_id for modality in encoded]
        return bool(torch.isin(input_ids, torch.tensor(ids, device=input_ids.device)).any())

    def _prepare_cache_for_generation(self, *args, **kwargs):
        return self.language_model._prepare_cache_for_generation(*args, **kwargs)

    def _prepare_position_ids_for_generation(self, *args, **kwargs):
        return self.language_model._prepare_position_ids_for_generation(*args, **kwargs)

    def _update_model_kwargs_for_generation(self, *args, **kwargs):
        return self.language_model._update_model_kwargs_for_generation(*args, **kwargs)

    @property
    def _is_stateful(self) -> bool:
        # Assisted decoding checks this: it takes tokens back, which recurrent states do not allow.
        return self.language_model._is_stateful

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor, model_kwargs, model_input_name, generation_config
    ):
        """Replaces the media in `model_kwargs` by `mm_encoder_outputs`: modality -> encoded media."""
        input_ids = inputs_tensor if model_input_name == "input_ids" else model_kwargs.get("input_ids")
        if input_ids is not None and not input_ids.numel():
            input_ids = None
        mask = model_kwargs.get("attention_mask")
        if mask is None:  # it was all ones and dropped; its length shows whether `input_ids` are new or all
            length = getattr(generation_config, "_mask_length", inputs_tensor.shape[1])
            mask = torch.ones(len(inputs_tensor), length, dtype=torch.long, device=inputs_tensor.device)
        media, rest = split_media(self._media_arguments, model_kwargs)
        cache = cache_of(rest)
        # With a cache, `input_ids` and media are either those of the full conversation, or only the new ones.
        if (past := cache_length(cache)) and input_ids is not None and mask.shape[1] == input_ids.shape[1]:
            media, input_ids = self._new_media(media, input_ids, past), input_ids[:, past:]
        embeds = rest.get("inputs_embeds") if input_ids is None else None
        given = embeds if input_ids is None else input_ids
        encoded, _ = self.encode_media(media, rest.pop("mm_encoder_outputs", None), given)
        encoded = {
            modality: EncodedMedia(pooler_output=output) if isinstance(output, torch.Tensor) else output
            for modality, output in encoded.items()
        }
        if encoded and generation_config.prefill_chunk_size is not None and not CHUNKS_MEDIA:
            raise ValueError(
                "`prefill_chunk_size` with media needs Transformers 5.23 or newer: "
                f"upgrade from {transformers.__version__}, or leave it out."
            )
        rest["mm_encoder_outputs"] = encoded
        if given is not None and self._hides_places(encoded, cache):
            unseen = self.place_media(input_ids, embeds, encoded).unseen
            rest["attention_mask"] = hide(unseen, mask, cache, given.shape[1])
            if rest.pop("position_ids", None) is not None:
                rest["position_ids"] = self._prepare_position_ids_for_generation(inputs_tensor, rest)
        return rest

    def _hides_places(self, encoded: dict[str, EncodedMedia], cache: Any) -> bool:
        """Whether some places, also of earlier turns, are hidden from the language model."""
        hides = any(output.token_mask is not None or name in self._summing for name, output in encoded.items())
        return hides or getattr(cache, "unseen_places", None) is not None

    def _new_media(self, media: dict[str, MediaInputs], input_ids: torch.Tensor, past: int) -> dict[str, MediaInputs]:
        """The media of a full conversation whose placeholders are not among the first `past` tokens."""
        new = {}
        for modality, inputs in media.items():
            keep = (self._first_positions(modality, input_ids, inputs) >= past).nonzero().squeeze(-1)
            if len(keep):
                new[modality] = take_items(self.config.modalities[modality], inputs, keep.tolist())
        return new

    def _first_positions(self, modality: str, input_ids: torch.Tensor, inputs: MediaInputs) -> torch.Tensor:
        """Column of each item's first placeholder, `(items,)`."""
        columns = torch.eq(input_ids, self.config.modalities[modality].token_id).nonzero()[:, 1]
        counts = self.config.token_counts(modality, inputs)
        if sum(counts) != len(columns):
            raise ValueError(
                f"{len(columns)} placeholder tokens of {modality!r} in input_ids, but the given media need {sum(counts)}. "
                "To continue from a cache, give the full conversation with all its media, or only the new part."
            )
        starts = [0, *accumulate(counts)][:-1]
        return columns[torch.tensor(starts, device=columns.device)]

    def _expand_multimodal_outputs(self, input_ids, mm_encoder_output, expand_size=1, inputs_embeds: Any = None):
        """For beams and several return sequences: a row's media [A, B] become [A, B, A, B], next to the row's copies."""
        given = input_ids if input_ids is not None and input_ids.numel() else inputs_embeds
        return {
            modality: _repeated(output, self.placeholder_mask(modality, given), expand_size)
            for modality, output in mm_encoder_output.items()
        }

    def _validate_model_kwargs(self, model_kwargs):
        """Checks only other arguments than media, by the language model's own rules."""
        _, rest = split_media(self._media_arguments, model_kwargs)
        self.language_model._validate_model_kwargs(rest)

    def _get_stopping_criteria(self, *args, tokenizer=None, **kwargs):
        """Transformers' server passes the processor as the tokenizer."""
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        # Typed for models whose `_is_stateful` can be set.
        return super()._get_stopping_criteria(*args, tokenizer=tokenizer, **kwargs)  # ty: ignore[invalid-argument-type]

    def _get_logits_processor(self, generation_config, *args, device: Any = None, **kwargs):
        """Placeholders are never generated. They are removed first, so that top-k and the like see the rest."""
        # Typed for models whose `_is_stateful` can be set.
        processors = super()._get_logits_processor(  # ty: ignore[invalid-argument-type]
            generation_config, *args, device=device, **kwargs
        )
        placeholders = self.config.placeholder_ids
        if not placeholders:
            return processors
        return _Processors([_SuppressPlaceholders(placeholders, device=device), *processors])


class _Processors(LogitsProcessorList):
    """Transformers' own class inspects each signature at each step, which takes longer than a small processor."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if len(self) == 1 and isinstance(self[0], _SuppressPlaceholders):
            return self[0](input_ids, scores)
        return super().__call__(input_ids, scores, **kwargs)


class _SuppressPlaceholders(SuppressTokensLogitsProcessor):
    """As Transformers' own, but without a search over the vocabulary at each step."""

    def __init__(self, suppress_tokens: list[int], device: Any = None):
        super().__init__(suppress_tokens, device)
        self._most = max(suppress_tokens)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        if self._most >= scores.shape[-1]:  # some heads have fewer rows than the embeddings
            return super().__call__(input_ids, scores)
        return scores.index_fill(-1, self.suppress_tokens, -torch.inf)


def _repeated(output: EncodedMedia, mask: torch.Tensor, times: int) -> EncodedMedia:
    """Each row's items `times` times; `mask` `(batch, sequence)` shows the row of an item's placeholders."""
    tokens, seen = output.pooler_output, output.get("token_mask")
    ends = list(accumulate(len(item) for item in tokens))
    order, start = [], 0
    for end in accumulate(mask.sum(-1).tolist()):
        stop = next((i for i, item_end in enumerate(ends) if item_end > end), len(ends))
        order += list(range(start, stop)) * times
        start = stop
    if isinstance(tokens, torch.Tensor):
        tokens = tokens[torch.tensor(order, dtype=torch.long, device=tokens.device)]
    else:
        tokens = [tokens[i] for i in order]
    if seen is not None:
        seen = seen[torch.tensor(order, dtype=torch.long, device=seen.device)]
    return EncodedMedia(pooler_output=tokens, token_mask=seen)
