"""Media of a composite in vLLM: any modality, prepared by our own processor, one medium at a time."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import MultiModalDataParser, ProcessorBatchItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from ...modalities import MODALITIES


# Size of the dummy audio for vLLM's memory planning: half a minute, or the tower's window if that is shorter.
_LONG_AUDIO = 59


class Items(ProcessorBatchItems):
    """Media of one modality in a prompt."""

    @classmethod
    def of(cls, modality: str, given: Any) -> "Items | None":
        media = [given] if MODALITIES[modality].is_item(given) or _is_clip(given) else list(given)
        return cls(media, modality) if media else None

    def get(self, index: int) -> Any:
        medium = super().get(index)
        return self._unwrap(medium[0]) if _is_clip(medium) else medium

    def get_item_for_hash(self, index: int) -> Any:
        """The key of a medium in vLLM's cache; for a file, its current content."""
        medium = super().get_item_for_hash(index)
        named = isinstance(medium, (str, os.PathLike)) and os.path.isfile(medium)
        return Path(medium).read_bytes() if named else medium

    def get_processor_data(self) -> Mapping[str, object]:
        return {MODALITIES[self.modality].argument: self.get_all()}


def _is_clip(medium: Any) -> bool:
    """Whether it is a video as vLLM reads it: frames and their metadata."""
    return isinstance(medium, tuple) and len(medium) == 2 and isinstance(medium[1], Mapping)


class Parser(MultiModalDataParser):
    def __init__(self, modalities: Sequence[str]):
        super().__init__()
        self.modalities = modalities

    def _get_subparsers(self) -> Mapping[str, Any]:
        return {name: partial(Items.of, name) for name in self.modalities}


class Info(BaseProcessingInfo):
    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return dict.fromkeys(self.get_hf_processor().modalities)

    def get_data_parser(self) -> Parser:
        return Parser(list(self.get_hf_processor().modalities))


class DummyInputs(BaseDummyInputsBuilder[Info]):
    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        processor: Any = self.info.get_hf_processor()
        return "".join(processor.modalities[name].token * count for name, count in mm_counts.items())

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, list[Any]]:
        processor: Any = self.info.get_hf_processor()
        data = {}
        for name, count in mm_counts.items():
            spec, options = MODALITIES[name], processor.modalities[name].options
            size = _LONG_AUDIO if spec.medium == "audio" else 1
            data[name] = [spec.dummy(processor.sub_processor(name), options, size)] * count
        return data


class MediaProcessor(BaseMultiModalProcessor[Info]):
    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        """Prepares each medium alone: its cache entry must not depend on other media, for example by padding."""
        call = super()._call_hf_processor
        alone = [call({argument: [medium]}, hf_kwargs) for argument, media in hf_data.items() for medium in media]
        names = dict.fromkeys(name for one in alone for name in one)
        return BatchFeature({name: [one[name] for one in alone if name in one] for name in names})

    def _get_mm_fields_config(self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Any) -> Mapping[str, Any]:
        owners = self.info.get_hf_config().media_arguments
        return {name: MultiModalFieldConfig.batched(owners[name][0]) for name in hf_inputs}

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> list[Any]:
        processor: Any = self.info.get_hf_processor()
        token_ids = processor.prompt_tokenizer.placeholders
        if timed := [name for name in out_mm_kwargs if processor.modalities[name].options.get("timestamps")]:
            raise ValueError(f"{timed[0]} has timestamps between its frames, which vLLM does not support.")

        def places(modality: str, index: int) -> list[int]:
            inputs = {name: field.data for name, field in out_mm_kwargs[modality][index].items()}
            return [token_ids[modality]] * processor.num_tokens(modality, inputs)[0]

        return [
            PromptReplacement(modality=name, target=[token_ids[name]], replacement=partial(places, name))
            for name in out_mm_kwargs
        ]
