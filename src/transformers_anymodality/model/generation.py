"""Generation: media are encoded once, before the prefill; the cache and the next inputs are the language model's.

Each method overrides a hook of `GenerationMixin` that knows images and videos only, or that goes by class names.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessorList, SuppressTokensLogitsProcessor

from .media_encoding import EncodedMedia
from .placeholders import hide


class AnyModalityGenerationMixin(GenerationMixin):
    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, is_first_iteration=False, **kwargs):
        encoded = kwargs.pop("mm_encoder_outputs", None)
        inputs = self.language_model.prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if encoded is not None and (is_first_iteration or self._reads_media_again(inputs, encoded, kwargs)):
            inputs["mm_encoder_outputs"] = encoded
        return inputs

    def _reads_media_again(self, inputs: dict[str, Any], encoded: dict[str, Any], kwargs: dict[str, Any]) -> bool:
        """Whether a step after the first has media in its inputs: without a cache, which some models have none of."""
        input_ids = inputs.get("input_ids")
        if input_ids is None or not encoded:
            return not kwargs.get("use_cache", True)
        # One token is never a placeholder; not looking at it saves a synchronisation at each step.
        return input_ids.shape[1] > 1 and any(self.get_placeholder_mask(m, input_ids, None).any() for m in encoded)

    def _prepare_cache_for_generation(self, *args, **kwargs):
        return self.language_model._prepare_cache_for_generation(*args, **kwargs)

    def _prepare_position_ids_for_generation(self, *args, **kwargs):
        return self.language_model._prepare_position_ids_for_generation(*args, **kwargs)

    @property
    def _is_stateful(self) -> bool:
        # Assisted decoding takes tokens back, which a recurrent state cannot; it asks here.
        return self.language_model._is_stateful

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor, model_kwargs, model_input_name, generation_config
    ):
        """Replaces the media in `model_kwargs` by `mm_encoder_outputs`: modality -> encoded media."""
        input_ids = inputs_tensor if model_input_name == "input_ids" else model_kwargs.get("input_ids")
        mask = model_kwargs.get("attention_mask")
        if mask is None:  # it was all ones, and dropped; how long it was says whether `input_ids` are new or all
            length = getattr(generation_config, "_mask_length", inputs_tensor.shape[1])
            mask = torch.ones(len(inputs_tensor), length, dtype=torch.long, device=inputs_tensor.device)
        self._drop_cached_media(input_ids, mask, model_kwargs)
        encoded, _ = self.encode_media(model_kwargs, model_kwargs.pop("mm_encoder_outputs", None))
        for modality, output in encoded.items():
            if isinstance(output, torch.Tensor):
                encoded[modality] = EncodedMedia(pooler_output=output)
        model_kwargs["mm_encoder_outputs"] = encoded
        embeds = model_kwargs.get("inputs_embeds")
        ids = input_ids if input_ids is not None and input_ids.numel() else None
        if ids is not None or embeds is not None:
            seen = hide(self.unseen_places(ids, embeds, encoded), mask, model_kwargs.get("past_key_values"))
            if seen is not mask:
                model_kwargs["attention_mask"] = seen
                if model_kwargs.pop("position_ids", None) is not None:
                    model_kwargs["position_ids"] = self._prepare_position_ids_for_generation(
                        inputs_tensor, model_kwargs
                    )
        return model_kwargs

    def _drop_cached_media(
        self, input_ids: torch.Tensor | None, mask: torch.Tensor, model_kwargs: dict[str, Any]
    ) -> None:
        """When a chat goes on from a cache, media of earlier turns are in it: only the new ones are encoded."""
        cache = model_kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        if not past or input_ids is None or not input_ids.numel():
            return
        if mask.shape[1] > input_ids.shape[1]:
            return  # input_ids already begin behind the cache
        for modality, inputs in self._take_media(dict(model_kwargs)).items():
            names = {
                name: f"{modality}_{name}" if name in ("features", "feature_lengths") else name for name in inputs
            }
            first = self._first_positions(modality, input_ids, inputs)
            keep = (first >= past).nonzero().squeeze(-1)
            for name in names.values():
                model_kwargs[name] = model_kwargs[name][keep.to(model_kwargs[name].device)] if len(keep) else None

    def _first_positions(self, modality: str, input_ids: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Column of each item's first placeholder, `(items,)`."""
        columns = (input_ids == self.config.modalities[modality]["token_id"]).nonzero()[:, 1]
        counts = self._token_counts(modality, inputs)
        if sum(counts) != len(columns):
            raise ValueError(
                f"{len(columns)} placeholder tokens of {modality!r} in input_ids, but the media given need {sum(counts)}. "
                "Going on from a cache, give the whole conversation with all its media, or only what is new."
            )
        starts = [0, *accumulate(counts)][:-1]
        return columns[torch.tensor(starts, device=columns.device)]

    def _token_counts(self, modality: str, inputs: dict[str, Any]) -> list[int]:
        """Tokens of each item given."""
        row, config = self.config.modalities[modality], self.config.aligner_config(modality)
        items = len(next(value for name, value in inputs.items() if name != "feature_lengths"))
        lengths = inputs.get("feature_lengths")
        lengths = [row["feature_length"]] * items if lengths is None else lengths.tolist()
        return [config.count_tokens(row["num_frames"], length) for length in lengths]

    def _expand_multimodal_outputs(self, input_ids, mm_encoder_output, expand_size=1, inputs_embeds=None):
        """For beams and several return sequences: a row's media [A, B] become [A, B, A, B], beside its copies."""
        expanded = {}
        for modality, output in mm_encoder_output.items():
            has_ids = input_ids is not None and input_ids.numel()
            mask = self.get_placeholder_mask(modality, input_ids if has_ids else None, inputs_embeds)
            tokens = output.pooler_output
            ends = list(accumulate(len(item) for item in tokens))
            order, start = [], 0
            for end in accumulate(mask.sum(-1).tolist()):
                stop = next((i for i, item_end in enumerate(ends) if item_end > end), len(ends))
                order += list(range(start, stop)) * expand_size
                start = stop
            if isinstance(tokens, torch.Tensor):
                tokens = tokens[torch.tensor(order, dtype=torch.long, device=tokens.device)]
            else:
                tokens = [tokens[i] for i in order]
            seen = output.get("token_mask")
            seen = None if seen is None else seen[torch.tensor(order, dtype=torch.long, device=seen.device)]
            expanded[modality] = EncodedMedia(pooler_output=tokens, token_mask=seen)
        return expanded

    def _validate_model_kwargs(self, model_kwargs):
        media = set(self.config.input_modalities)
        media |= {f"{name}_{key}" for name in self.config.modalities for key in ("features", "feature_lengths")}
        media |= {"mm_token_type_ids"}
        super()._validate_model_kwargs({name: value for name, value in model_kwargs.items() if name not in media})

    def _get_stopping_criteria(self, *args, tokenizer=None, **kwargs):
        """Transformers' server gives the processor for the tokenizer."""
        return super()._get_stopping_criteria(*args, tokenizer=getattr(tokenizer, "tokenizer", tokenizer), **kwargs)

    def _get_logits_processor(self, generation_config, *args, device=None, **kwargs):
        """Placeholders are never generated. First, so that top-k and the like see what is left."""
        processors = super()._get_logits_processor(generation_config, *args, device=device, **kwargs)
        placeholders = [row["token_id"] for row in self.config.modalities.values()]
        if not placeholders:
            return processors
        return LogitsProcessorList([SuppressTokensLogitsProcessor(placeholders, device=device), *processors])
