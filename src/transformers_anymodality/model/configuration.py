"""The config of a composite: the language model's own, each tower's and aligner's own, and a table of modalities.

Sub-configs are direct attributes (`text_config`, `image_config`, `image_aligner_config`, ...) because Transformers'
dtype, attention and serialisation look exactly one level deep. The table is plain JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import CONFIG_MAPPING, LlamaConfig, PreTrainedConfig

from ..modalities._names import check_modality_name
from ..utils.registry import did_you_mean
from .remote_code import CONFIG_AUTO_MAP, RemoteCodeMixin


# One row of the table. What is not given has these values.
_ROW: dict[str, Any] = {
    "token_id": None,  # id of the placeholder token
    "tower": None,  # name of the modality whose tower is used: its own, or a borrowed one
    "aligner": None,  # likewise
    "inputs": {},  # name of a model input -> argument of the tower's forward; the main input first
    "input_shape": [],  # of one item of the main input
    "input_dtype": "float32",
    "per_frame": False,  # the tower reads the frames of an item one by one
    "feature_length": None,  # features per frame, None where it depends on the item
    "num_frames": 1,
    "select_layer": None,  # the tower is built up to this layer, and that layer's own output is read
    "unread": [],  # modules of the tower that its features do not depend on, and that are not built
    "select_feature": "all",  # "all", "patches" or "pooled"
}


def main_input_first(modality: str, inputs: dict[str, str]) -> dict[str, str]:
    """JSON files are written with sorted keys, but a modality's main input comes first; the others bear its name."""

    def is_other(name: str) -> bool:
        return name.startswith(f"{modality}_") and name != f"{modality}_values"

    return {name: inputs[name] for name in sorted(inputs, key=is_other)}


class AnyModalityConfig(RemoteCodeMixin, PreTrainedConfig):
    """
    Args:
        text_config: the language model's own config (or its dict, with `model_type`).
        modalities: one row per modality, see `configuration._ROW`; kept in alphabetical order.
        reads_input_ids: the language model reads ids for more than their embeddings, and is given both.
        references: parts kept outside the checkpoint, see `light_checkpoint`.
        trained: names of the parts that were ever trained, as `set_trainable` and PEFT say; None if neither was asked.
        **kwargs: `<name>_config` for each tower and `<name>_aligner_config` for each aligner that a row names.
    """

    model_type = "anymodality"
    keys_to_ignore_at_inference = ["past_key_values", "modality_features"]
    # The language model brings its own plan; there are no `layers.*` at this level.
    base_model_fsdp_plan = {}

    text_config: dict | PreTrainedConfig | None = None
    modalities: dict | None = None
    reads_input_ids: bool = False
    references: dict | None = None
    trained: list[str] | None = None

    def __post_init__(self, **kwargs):
        if self.text_config is None:
            self.text_config = LlamaConfig()
        self.text_config = as_config("text_config", self.text_config)
        # config.json is written with sorted keys: sorting here keeps the order of modules, weights, optimizer state.
        self.modalities = {name: self._row(name, row) for name, row in sorted((self.modalities or {}).items())}
        for key in self._part_keys():
            if key not in kwargs:
                raise ValueError(f"The table of modalities names `{key}`, which is missing from the config.")
            setattr(self, key, as_config(key, kwargs.pop(key)))
        # Tools that look at the composite find the language model's flag.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        kwargs.pop("tie_word_embeddings", None)
        # The stock setter hands its attention down to every part; parts that were built already keep theirs.
        attention = {key: getattr(self, key)._attn_implementation for key in self.sub_configs}
        super().__post_init__(**kwargs)
        if kwargs.get("attn_implementation") is None:
            for key, value in attention.items():
                getattr(self, key)._attn_implementation = value

    def _row(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        check_modality_name(name)
        if unknown := sorted(set(row) - set(_ROW)):
            raise ValueError(f"Unknown keys {unknown} for modality {name!r}; known: {', '.join(_ROW)}.")
        row = {**_ROW, **row}
        row["inputs"] = main_input_first(name, row["inputs"])
        for part in ("tower", "aligner"):
            row[part] = row[part] or name
            if row[part] not in self.modalities:
                raise ValueError(f"Modality {name!r} borrows the {part} of {row[part]!r}, which is not in the table.")
            if (self.modalities[row[part]].get(part) or row[part]) != row[part]:
                raise ValueError(f"Modality {name!r} borrows the {part} of {row[part]!r}, which borrows it itself.")
        return row

    def _part_keys(self) -> list[str]:
        towers = [f"{name}_config" for name, row in self.modalities.items() if row["tower"] == name]
        return towers + [f"{name}_aligner_config" for name, row in self.modalities.items() if row["aligner"] == name]

    @property
    def sub_configs(self) -> dict[str, type[PreTrainedConfig]]:
        """Transformers reads this to reach into sub-configs; which there are depends on the instance."""
        parts = self.__dict__.get("modalities") and self._part_keys()
        keys = ["text_config", *(parts or [])]
        return {key: type(self.__dict__[key]) for key in keys if key in self.__dict__}

    def tower_config(self, modality: str) -> PreTrainedConfig:
        return getattr(self, f"{self.modalities[modality]['tower']}_config")

    def aligner_config(self, modality: str) -> PreTrainedConfig:
        return getattr(self, f"{self.modalities[modality]['aligner']}_aligner_config")

    def note_trained(self, parts: Iterable[str]) -> None:
        """Notes which parts are no longer as they were composed."""
        self.trained = sorted({*(self.trained or ()), *parts})

    @property
    def input_modalities(self) -> dict[str, str]:
        """Model input name -> modality."""
        return {name: modality for modality, row in self.modalities.items() for name in row["inputs"]}

    def __getattr__(self, name: str) -> Any:
        # Generation and serving read `<modality>_token_id` at the top.
        modality, _, rest = name.rpartition("_token_id")
        row = self.__dict__.get("modalities", {}).get(modality) if modality and not rest else None
        if row is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return row["token_id"]

    def to_dict(self) -> dict[str, Any]:
        # Also of a config that came from the Hub, whose `auto_map` says from which repository.
        return {**super().to_dict(), "auto_map": dict(CONFIG_AUTO_MAP)}


def as_config(key: str, value: Any) -> PreTrainedConfig:
    """A config, or the one that its dict describes; `key` is its name in errors."""
    if isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, dict):
        raise TypeError(f"`{key}` must be a config or its dict, not {type(value).__name__}.")
    model_type = value.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"`{key}` has an unknown model type {model_type!r}.{did_you_mean(model_type, CONFIG_MAPPING)} If it is a "
            "class of your own, import the module that registers it before loading."
        )
    return CONFIG_MAPPING[model_type].from_dict(dict(value))
