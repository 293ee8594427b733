"""The table of modalities in a config: its parts, the keys of their configs, and their inputs."""

from collections.abc import Mapping
from typing import Any


def part_names(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The model's children: "language_model", and each modality's own `<modality>_tower`, `<modality>_aligner`."""
    pairs = [(name, part) for name in sorted(rows) for part in ("tower", "aligner")]
    return ["language_model", *(f"{name}_{part}" for name, part in pairs if owner(rows, name, part) == name)]


def owner(rows: Mapping[str, Mapping[str, Any]], modality: str, part: str) -> str:
    """The modality whose "tower" or "aligner" a modality uses: its own, or a borrowed one."""
    return rows[modality].get(part) or modality


def config_key(part: str) -> str:
    """The name of a part's config."""
    return "text_config" if part == "language_model" else f"{part.removesuffix('_tower')}_config"


def main_input_first(modality: str, inputs: dict[str, str]) -> dict[str, str]:
    """Puts the main input first again (JSON files have sorted keys); other inputs begin with the modality's name."""

    def is_other(name: str) -> bool:
        return name.startswith(f"{modality}_") and name != f"{modality}_values"

    return {name: inputs[name] for name in sorted(inputs, key=is_other)}
