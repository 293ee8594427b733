"""The config of a composite: the language model's own, each tower's and aligner's own, and a table of modalities.

Sub-configs are direct attributes (`text_config`, `image_config`, `image_aligner_config`, ...) because Transformers'
dtype, attention and serialisation look exactly one level deep. The table is plain JSON.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, get_type_hints

import torch
from transformers import CONFIG_MAPPING, LlamaConfig, PreTrainedConfig

from anymodality.plain.table import config_key, main_input_first, part_names

from ..modalities._base import check_modality_name
from ..utils.checked import ConfigError, check_fields, check_flags, check_numbers, read_from
from ..utils.registry import UnknownNameError, did_you_mean
from ..utils.upstream import CACHE_NAMES, set_attention
from .remote_code import CONFIG_AUTO_MAP, RemoteCodeMixin


SELECT_FEATURES = ("all", "patches", "pooled", "merged")
_TOP = {
    "modalities": dict[str, Any],
    "reads_input_ids": bool,
    "references": dict[str, dict] | None,
    "trained": list[str] | None,
}
# The smallest valid numbers in the table.
_LEAST = {"token_id": 0, "input_shape": 1, "num_frames": 1, "feature_length": 1}
# Sizes of a modality's items in a batch, besides the tower's inputs: see `frames`.
SIZES = ("frames", "feature_lengths")


@dataclass
class ModalityConfig:
    """The model's settings of one modality.

    Attributes:
        token_id: id of its placeholder token.
        tower: name of the modality whose tower is used: its own, or a borrowed one.
        aligner: likewise.
        inputs: name of a model input -> argument of the tower's forward; the main input first.
        input_shape: shape of the main input for the smallest item (a dummy input).
        input_dtype: dtype of the main input, a name in `torch`.
        beside: values of the other inputs for that item, if the tower needs them; `{"shape": ...}` for floats, also with
            `"dtype"` for masks.
        per_frame: the main input has an axis of frames, which the tower reads one by one.
        num_frames: frames per item in the tower's features; None if they differ, see `frames`.
        feature_length: features per frame; None if they differ.
        grid: input whose product is the number of rows of the main input per frame; None if each frame has one row.
        side_by_side: the tower takes the rows of the main input side by side, as one.
        marks_padding: mask of the tower's forward that is True at padding, and gets its input inverted.
        packed: the tower gives the features of all frames as one row.
        channels_first: the tower gives features as `(items, dim, length)`; None if their sizes decide.
        select_layer: the tower is built up to this layer, and the layer's own output is read; None: the tower's output.
        unread: modules of the tower that do not affect its features, and are not built.
        select_feature: "all", "patches", "pooled" or "merged".
    """

    token_id: int
    tower: str = ""
    aligner: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    input_shape: list[int] = field(default_factory=list)
    input_dtype: str = "float32"
    beside: dict[str, Any] = field(default_factory=dict)
    per_frame: bool = False
    num_frames: int | None = 1
    feature_length: int | None = None
    grid: str | None = None
    side_by_side: bool = False
    marks_padding: str | None = None
    packed: bool = False
    channels_first: bool | None = None
    select_layer: int | None = None
    unread: list[str] = field(default_factory=list)
    select_feature: str = "all"

    @property
    def main_input(self) -> str:
        return next(iter(self.inputs))

    @classmethod
    def of(cls, modality: str, given: "ModalityConfig | dict[str, Any]") -> "ModalityConfig":
        """A copy, with the defaults of this modality."""
        check_modality_name(modality)
        fields, where = asdict(given) if isinstance(given, ModalityConfig) else given, f"modalities.{modality}"
        if not isinstance(fields, dict) or "token_id" not in fields:
            raise ConfigError(f"`{where}` is {fields!r:.80}; it must be a table with a `token_id`.")
        if unknown := sorted(set(fields) - set(cls.__dataclass_fields__)):
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"Unknown keys {unknown} for modality {modality!r}; known: {known}.")
        own: dict[str, Any] = {"tower": modality, "aligner": modality}
        own |= {key: value for key, value in fields.items() if value is not None or key == "num_frames"}
        check_fields(where, own, get_type_hints(cls), _LEAST)
        own["inputs"] = main_input_first(modality, own.get("inputs", {}))
        row = cls(**own)
        if row.select_feature not in SELECT_FEATURES:
            raise ConfigError(
                f"`{where}.select_feature` is {row.select_feature!r}; known: {', '.join(SELECT_FEATURES)}."
            )
        if not isinstance(getattr(torch, row.input_dtype, None), torch.dtype):
            raise ConfigError(f"`{where}.input_dtype` is {row.input_dtype!r}, which is not a dtype of torch.")
        return row


class AnyModalityConfig(RemoteCodeMixin, PreTrainedConfig):
    """
    Args:
        text_config: the language model's own config (or its dict, with `model_type`).
        modalities: modality -> its `ModalityConfig` (or the dict of it); kept in alphabetical order.
        reads_input_ids: the language model reads ids for more than their embeddings, and gets both.
        references: parts stored outside the checkpoint, see `checkpoint`.
        trained: names of parts that were ever trained, set by `set_trainable` and PEFT; None if neither was used.
        **kwargs: `<name>_config` for each tower and `<name>_aligner_config` for each aligner that a row names.
    """

    model_type = "anymodality"
    # The language model has its own plan; there are no `layers.*` at this level.
    base_model_fsdp_plan = {}

    text_config: PreTrainedConfig = field(default_factory=LlamaConfig)
    modalities: dict[str, ModalityConfig] = field(default_factory=dict)
    reads_input_ids: bool = False
    references: dict[str, dict[str, Any]] | None = None
    trained: list[str] | None = None

    def __post_init__(self, **kwargs):
        check_fields("config", {key: getattr(self, key) for key in _TOP}, _TOP, {})
        self.text_config = as_config("text_config", self.text_config)
        # config.json is written with sorted keys: sorting here keeps the order of modules, weights, optimizer state.
        self.modalities = {name: ModalityConfig.of(name, row) for name, row in sorted(self.modalities.items())}
        self._check_lenders()
        self._check_tokens()
        for key in self._part_keys():
            if key not in kwargs:
                raise ValueError(f"The table of modalities names `{key}`, which is missing from the config.")
            setattr(self, key, as_config(key, kwargs.pop(key)))
        # Tools read this flag of the language model from the composite.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        kwargs.pop("tie_word_embeddings", None)
        # The stock setter sets the attention of every part; parts that were built already keep theirs.
        attention = {key: getattr(self, key)._attn_implementation for key in self.sub_configs}
        super().__post_init__(**kwargs)
        if kwargs.get("attn_implementation") is None:
            for key, value in attention.items():
                set_attention(getattr(self, key), value)

    def _check_lenders(self) -> None:
        for name, modality in self.modalities.items():
            for part, lender in (("tower", modality.tower), ("aligner", modality.aligner)):
                if lender not in self.modalities:
                    raise ValueError(f"Modality {name!r} borrows the {part} of {lender!r}, which is not in the table.")
                if getattr(self.modalities[lender], part) != lender:
                    raise ValueError(f"Modality {name!r} borrows the {part} of {lender!r}, which itself borrows it.")
            own, lent = ({*self.modalities[one].inputs.values()} for one in (name, modality.tower))
            if not own <= lent:
                raise ConfigError(
                    f"Modality {name!r} borrows the tower of {modality.tower!r}, but gives it "
                    f"{', '.join(sorted(own - lent))}, which this tower does not read."
                )

    def _check_tokens(self) -> None:
        taken: dict[int, str] = {}
        for name, modality in self.modalities.items():
            if (other := taken.setdefault(modality.token_id, name)) != name:
                raise ConfigError(
                    f"`modalities.{name}.token_id` is {modality.token_id}, which is already the placeholder of {other!r}."
                )

    def owners(self, part: str) -> list[str]:
        """Modalities with their own `part`, "tower" or "aligner"; the others borrow one."""
        return [name for name, modality in self.modalities.items() if getattr(modality, part) == name]

    @property
    def part_names(self) -> list[str]:
        """The model's children: "language_model", and each modality's own `<modality>_tower`, `<modality>_aligner`."""
        return part_names({name: vars(row) for name, row in self.modalities.items()})

    def _part_keys(self) -> list[str]:
        return [config_key(part) for part in self.part_names[1:]]

    @property
    def sub_configs(self) -> dict[str, type[PreTrainedConfig]]:
        """Transformers reads this to find sub-configs, which depend on the instance."""
        parts = self.__dict__.get("modalities") and self._part_keys()
        keys = ["text_config", *(parts or [])]
        return {key: type(self.__dict__[key]) for key in keys if key in self.__dict__}

    def tower_config(self, modality: str) -> PreTrainedConfig:
        return getattr(self, f"{self.modalities[modality].tower}_config")

    def aligner_config(self, modality: str) -> PreTrainedConfig:
        return getattr(self, f"{self.modalities[modality].aligner}_aligner_config")

    def note_trained(self, parts: Iterable[str]) -> None:
        """Records which parts were trained since composing."""
        self.trained = sorted({*(self.trained or ()), *parts})

    @property
    def placeholder_ids(self) -> list[int]:
        """Ids of the placeholder tokens, in the order of the modalities."""
        return [modality.token_id for modality in self.modalities.values()]

    @property
    def media_arguments(self) -> dict[str, tuple[str, str]]:
        """Keyword argument of the model's forward -> (modality, argument of `get_modality_features`)."""
        return {f"{name}_{given}": (name, given) for name in self.modalities for given in ("features", *SIZES)} | {
            given: (name, given) for name, modality in self.modalities.items() for given in modality.inputs
        }

    def token_counts(self, modality: str, inputs: Mapping[str, torch.Tensor]) -> list[int]:
        """Number of placeholders of each item; `inputs` are arguments of `get_modality_features`."""
        settings = self.modalities[modality]
        lengths = item_lengths(inputs, settings.num_frames, settings.feature_length)
        return [self.aligner_config(modality).count_item_tokens(item) for item in lengths]

    @property
    def keys_to_ignore_at_inference(self) -> list[str]:
        """Output fields that the Trainer does not gather: those of the language model, caches, and media."""
        own = getattr(self.text_config, "keys_to_ignore_at_inference", ())
        return list(dict.fromkeys((*own, *CACHE_NAMES, "modality_hidden_states")))

    def __getattr__(self, name: str) -> Any:
        # Generation and serving read `<modality>_token_id` at the top level.
        modality, _, rest = name.rpartition("_token_id")
        row = self.__dict__.get("modalities", {}).get(modality) if modality and not rest else None
        if row is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return row.token_id

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As usual. Raises ConfigError, which names the folder and the key, for invalid values."""
        place = kwargs.get("name_or_path") or config_dict.get("_name_or_path") or "config"
        with read_from(f"config.json of {place}"):
            return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        table = {name: asdict(modality) for name, modality in self.modalities.items()}
        # Also for a config from the Hub, whose `auto_map` names the repository.
        return {**super().to_dict(), "modalities": table, "auto_map": dict(CONFIG_AUTO_MAP)}


def item_lengths(
    inputs: Mapping[str, torch.Tensor], num_frames: int | None, feature_length: int | None
) -> list[list[int]]:
    """The number of features in each frame of each item.

    Args:
        inputs: arguments of `get_modality_features`; `frames` and `feature_lengths` are read, or the number of rows.
        num_frames, feature_length: for each item and each frame, if the inputs do not give them.
    """
    frames, lengths = inputs.get("frames"), inputs.get("feature_lengths")
    if frames is None:
        items = len(next(iter(inputs.values()))) if lengths is None else len(lengths) // (num_frames or 1)
        counts = [num_frames or 1] * items
    else:
        counts = frames.tolist()
    if lengths is None:
        return [[feature_length or 0] * count for count in counts]
    each = iter(lengths.tolist())
    return [list(islice(each, count)) for count in counts]


def as_config(key: str, value: Any) -> PreTrainedConfig:
    """A config itself, or the config that a dict describes; `key` is its name in errors."""
    if isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"`{key}` must be a config or its dict, not {type(value).__name__}.")
    model_type = value.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise UnknownNameError(
            f"`{key}` has an unknown model type {model_type!r}.{did_you_mean(model_type, CONFIG_MAPPING)} If it is your "
            "own class, import the module that registers it before loading."
        )
    check_numbers(key, value)
    check_flags(key, value, CONFIG_MAPPING[model_type])
    with read_from(f"`{key}`"):
        return CONFIG_MAPPING[model_type].from_dict(dict(value))
