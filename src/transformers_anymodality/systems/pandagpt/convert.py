"""PandaGPT's release: ImageBind, Vicuna-v0 (or LLaMA and Vicuna's delta), and what PandaGPT trained."""

import re
from typing import Any

import torch

from ...conversion import Options, Plan, Release, Rule, Tensors, llama_config, llama_rules, register_conversion
from ...conversion.imagebind import rules as imagebind_rules
from ...conversion.imagebind import tower_config
from . import MODALITY_NAMES, pandagpt


_LORA = r"llama_model\.base_model\.model\.(.+)\.lora_([AB])\.default\.weight"
_ADAPTER = [
    Rule(_LORA, r"base_model.model.language_model.\1.lora_\2.weight"),
    Rule(r"llama_proj\..*", reason="in the model itself"),
]
# ImageBind's names of the towers. Images and videos share one.
_THEIRS = {"image": "vision", "audio": "audio", "depth": "depth", "thermal": "thermal", "imu": "imu"}


class _Sum(Tensors):
    """LLaMA plus Vicuna's delta, added when a tensor is read. For tokens that LLaMA lacks, FastChat's delta is the whole
    row."""

    def __init__(self, base: Tensors, delta: Tensors):
        super().__init__()
        self.files, self.base, self.delta = (*base.files, *delta.files), base, delta
        self._readers = dict.fromkeys((name for name in delta if not name.endswith("inv_freq")), delta)
        if missing := sorted(set(self._readers) - set(base)):
            raise ValueError(
                f"LLaMA's weights lack {missing[0]} and {len(missing) - 1} more that Vicuna's delta changes."
            )

    def __getitem__(self, name: str) -> torch.Tensor:
        delta, base = self.delta[name], self.base[name]
        if delta.shape[1:] != base.shape[1:] or len(delta) < len(base):
            raise ValueError(
                f"{name}: LLaMA has {tuple(base.shape)}, Vicuna's delta {tuple(delta.shape)}; other sizes?"
            )
        total = delta.clone()
        total[: len(base)] += base.to(delta.dtype)
        return total

    def shape(self, name: str) -> tuple[int, ...]:
        return self.delta.shape(name)


def _vicuna(release: Release) -> tuple[Tensors, dict[str, Any]]:
    told = release.config.get("llama_config")
    if release.has("vicuna"):
        return release.open("vicuna"), told or release.config_of("vicuna")
    return _Sum(release.open("llama"), release.open("vicuna-delta", "delta")), told or release.config_of("llama")


def _lora(release: Release, tensors: Tensors, modules: list[str]) -> dict[str, Any]:
    """Fields of a `LoraConfig`. The weights show the rank, but not the scale."""
    told = release.config.get("lora", {})
    rank = tensors.shape(f"llama_model.base_model.model.{modules[0]}.lora_A.default.weight")[0]
    targets = "|".join(sorted({module.rpartition(".")[2] for module in modules}))
    return {
        "r": rank,
        "lora_alpha": told.get("lora_alpha", rank),
        "lora_dropout": told.get("lora_dropout", 0.1),
        "target_modules": rf"language_model\..*\.({targets})",
        "task_type": "CAUSAL_LM",
    }


@register_conversion(
    "pandagpt",
    help="imagebind_huge, vicuna/ (or llama/ and vicuna-delta/), pytorch_model (PandaGPT's own)",
)
def plan(release: Release, options: Options) -> Plan:
    imagebind, own = release.open("imagebind_huge"), release.open("pytorch_model", "pandagpt")
    told = release.config.get("imagebind_spec", {})
    towers = {name: tower_config(imagebind, theirs, told) for name, theirs in _THEIRS.items()}
    towers["audio"].logit_scale = None
    arguments = pandagpt(options.language_model, towers=towers, faithful=options.faithful)
    rules = [rule for name, theirs in _THEIRS.items() for rule in imagebind_rules(theirs, f"{name}_tower.")]
    rules.append(Rule(r"modality_\w+\.text\..*", reason="PandaGPT reads no text by ImageBind"))
    weights: list[tuple[Tensors, list[Rule]]] = [(imagebind, rules)]
    aligner, adapter = Rule(r"llama_proj\.(weight|bias)", r"image_aligner.projection.\1"), None
    if options.language_model is not None:
        other = Rule(r"llama_model\..*", reason="it changes Vicuna, and another language model was chosen")
        weights.append((own, [aligner, other]))
    else:
        language, llama = _vicuna(release)
        arguments["language_model"] = llama_config(language, "", llama)
        modules = [found[1] for name in own if (found := re.fullmatch(_LORA, name)) and found[2] == "A"]
        lora = _lora(release, own, modules) if modules else {}
        if lora and options.merge:
            merging = [_merging(modules, lora["lora_alpha"] / lora["r"]), Rule(_LORA, reason="merged")]
            weights.append((Tensors.joined(language, own), [*merging, aligner, *llama_rules("")]))
        else:
            beside = Rule(_LORA, reason="kept as an adapter beside the model")
            weights += [(language, llama_rules("")), (own, [aligner, beside])]
            adapter = (lora, [(own, _ADAPTER)]) if lora else None
    notes = [
        "ImageBind's weights are under CC-BY-NC-SA 4.0, PandaGPT's under CC-BY-NC-SA 4.0, Vicuna's under LLaMA's licence: "
        "research, not commerce.",
        f"Modalities: {', '.join(MODALITY_NAMES)}; media side by side are added into one token.",
    ]
    return Plan(compose=arguments, weights=weights, adapter=adapter, licence="cc-by-nc-sa-4.0", notes=notes)


def _merging(modules: list[str], scale: float) -> Rule:
    def merged(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)

    pair = tuple(rf"llama_model.base_model.model.\1.lora_{side}.default.weight" for side in "AB")
    changed = "|".join(map(re.escape, modules))
    return Rule(rf"({changed})\.weight", r"language_model.\1.weight", merged, pair)
