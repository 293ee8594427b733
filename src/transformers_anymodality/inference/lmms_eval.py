"""Composed models for lmms-eval (0.7), with its interface for chat models.

    lmms-eval --model anymodality --model_args pretrained=my-anymal --tasks mme --batch_size 8

lmms-eval finds it by this package's entry point in the group `lmms_eval.models`. lmms-eval does not offer tasks that compare
likelihoods for chat models, so they are refused.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoProcessor

from ..evaluation.answering import generated, prompts
from ..processing.processor import until_stop


# A task's generation settings that `generate` takes, and their defaults.
_DEFAULTS = {"max_new_tokens": 1024, "do_sample": False, "temperature": None, "top_p": None, "num_beams": 1}


class AnyModality(lmms):
    """
    Args:
        pretrained: folder or Hub id.
        batch_size: samples per run of the model.
        device: "cuda", "cpu", ...; by default a GPU if there is one.
        dtype: dtype of the model; "auto" is the checkpoint's.
        system_prompt: put before every chat.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        system_prompt: str = "",
        **unused: Any,
    ):
        super().__init__()
        if unknown := sorted(set(unused) - {"max_batch_size", "device_map"}):
            raise ValueError(f"Unknown model arguments {', '.join(unknown)} for anymodality.")
        from accelerate import PartialState

        state = PartialState()
        self._rank, self._world_size = state.process_index, state.num_processes
        self.batch_size_per_gpu = int(batch_size)
        self.processor = AutoProcessor.from_pretrained(pretrained)
        device = device or str(state.device)
        place = state.device if device == "cuda" else torch.device(device)
        self.model = AutoModelForCausalLM.from_pretrained(pretrained, dtype=dtype).eval().to(place)
        self.system_prompt = self._resolve_system_prompt(system_prompt)

    @property
    def batch_size(self) -> int:
        return self.batch_size_per_gpu

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in the order of the requests; requests with the same settings are batched."""
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[2], sort_keys=True), []).append(i)
        answers: dict[int, str] = {}
        with tqdm(total=len(requests), disable=self.rank != 0, desc="anymodality", unit="answer") as bar:
            for settings, members in groups.items():
                for start in range(0, len(members), self.batch_size):
                    batch = members[start : start + self.batch_size]
                    texts = self._answer([requests[i] for i in batch], json.loads(settings))
                    answers |= dict(zip(batch, texts, strict=True))
                    for i, text in zip(batch, texts, strict=True):
                        self.cache_hook.add_partial("generate_until", (requests[i].args[0], requests[i].args[2]), text)
                    bar.update(len(batch))
        return [answers[i] for i in range(len(requests))]

    def _answer(self, requests: Sequence[Any], settings: dict[str, Any]) -> list[str]:
        inputs = prompts(self.processor, [self._chat(*request.args) for request in requests])
        until = settings.get("until") or []
        until = [until] if isinstance(until, str) else until
        chosen = {name: settings.get(name, value) for name, value in _DEFAULTS.items()}
        if not chosen["temperature"]:  # lmms-eval's way of saying greedy
            chosen |= {"do_sample": False, "temperature": None, "top_p": None}
        answers = generated(self.model, self.processor, inputs, **chosen)
        return [until_stop(one["answer"], until).strip() for one in answers]

    def _chat(self, context: str, doc_to_messages: Any, settings: Any, doc: Any, task: str, split: str) -> list[dict]:
        messages = doc_to_messages(self.task_dict[task][split][doc])
        messages = self._apply_system_prompt(messages, self.system_prompt)
        return ChatMessages(messages=messages).to_hf_messages()

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("anymodality supports only single-round tasks of lmms-eval.")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError(
            "lmms-eval has no likelihoods for chat models: use `anymodality evaluate --tasks multiple_choice`."
        )


def manifest() -> ModelManifest:
    """The entry for lmms-eval's registry."""
    return ModelManifest(model_id="anymodality", chat_class_path=f"{__name__}.{AnyModality.__name__}")
