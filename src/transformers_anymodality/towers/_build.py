"""Builds a tower from a config, a model or a Hub id: only the encoder, with only the layers that are read.

Composing and loading both use `build_tower(config)`, so a checkpoint needs only the configs of its towers.
"""

import copy
import json
import os
import threading
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import lru_cache
from typing import Any

import torch
from torch._subclasses import FakeTensorMode
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from ..utils.hub import check_folder, config_alone
from ..utils.registry import config_class_of, models_beside
from ..utils.upstream import MODEL_MAPPING, build
from ._run import main_input, match_arguments, read_features
from .codec import encoding_half


# Where two-sided configs keep the half that a medium needs, in order of preference.
_HALVES = {
    "pixels": ("vision_config", "image_config"),
    "audio": ("audio_config", "audio_encoder_config", "speech_config", "encoder_config"),
    "signal": (),
    "text": ("text_config",),
}


def register_tower(cls: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Class decorator: makes your own `PreTrainedModel` usable as a tower and loadable by the Auto classes.

    Its `config` annotation names the config class, whose `model_type` must be unique. A process that loads a
    checkpoint with such a tower must import the class first.
    """
    config_class = config_class_of(cls)
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, cls, exist_ok=True)
    return cls


def tower_config(config: PreTrainedConfig, medium: str, select_layer: int | None = None) -> PreTrainedConfig:
    """The config of the tower itself: the half of `config` that reads `medium`, cut after `select_layer`.

    Args:
        config: of any model that `AutoModel` can build, one- or two-sided.
        medium: "pixels", "audio", "signal" or "text".
        select_layer: index into the hidden states, as in Transformers: 0 is the embeddings, -1 the last layer's
            output, -2 the one before; None reads the model's final output. Later layers are not built.
    """
    for name in () if _reads_videos(config) else _HALVES[medium]:
        half = getattr(config, name, None)
        if isinstance(half, PreTrainedConfig):
            config = half
            break
    if config.is_encoder_decoder:
        own = _encoder(config).config
        # Where encoder and decoder share a config, the cache is the decoder's.
        config = own if type(own) is not type(config) else _changed(config, use_cache=False)
    if config.model_type == "timm_wrapper":
        # timm's pooling is part of the head; the features of patches come before it.
        config = _changed(config, do_pooling=False)
    return config if select_layer is None else cut_layers(config, select_layer)


def _reads_videos(config: PreTrainedConfig) -> bool:
    """Whether `config` is that of a video encoder that contains an encoder of frames."""
    two_sided = hasattr(config, "text_config") or type(config) not in MODEL_MAPPING
    return not two_sided and tower_class(config).main_input_name == "pixel_values_videos"


def _changed(config: PreTrainedConfig, **fields: Any) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    for name, value in fields.items():
        setattr(config, name, value)
    return config


# Config fields with the number of an encoder's layers. The first that exists and makes the tower smaller is used.
_LAYER_COUNTS = ("encoder_layers", "encoder_num_hidden_layers", "num_hidden_layers")


def cut_layers(config: PreTrainedConfig, select_layer: int) -> PreTrainedConfig:
    """The config of a tower up to a layer; see `tower_config`.

    Raises:
        ValueError: the tower has fewer layers, or its config does not say how many it has.
    """
    whole, counts = _size(config), {name: getattr(config, name, None) for name in _LAYER_COUNTS}
    if config.model_type == "timm_wrapper":
        counts = {"blocks": len(getattr(weightless(config).timm_model, "blocks", ()))}
    for name, layers in counts.items():
        if not isinstance(layers, int) or not layers:
            continue
        keep = select_layer if select_layer >= 0 else layers + 1 + select_layer
        if not 1 <= keep <= layers:
            raise ValueError(f"select_layer={select_layer} is outside the tower's {layers} layers (1 to {layers}).")
        cut = _with_layers(config, name, keep)
        # Pyramids count stages; their other settings build all stages anyway.
        if keep == layers or 0 < _size(cut) < whole:
            return cut
    raise ValueError(
        f"select_layer needs a tower with one stack of layers, but the config of {config.model_type!r} does not give "
        "their number (`num_hidden_layers`, or `blocks` in timm). Leave out select_layer to read the final output."
    )


def _with_layers(config: PreTrainedConfig, name: str, keep: int) -> PreTrainedConfig:
    if name == "blocks":
        return _changed(config, model_args={**(config.model_args or {}), "depth": keep})
    lists = {key: getattr(config, key, None) for key in ("layer_types", "mlp_layer_types")}
    return _changed(config, **{name: keep}, **{key: x[:keep] for key, x in lists.items() if isinstance(x, list)})


def _size(config: PreTrainedConfig) -> int:
    """Number of weights of a config's tower; 0 if it cannot be built."""
    try:
        return sum(parameter.numel() for parameter in weightless(config).parameters())
    except (TypeError, ValueError, RuntimeError, IndexError):
        return 0


# Class of config -> class of its encoder, found by building the full model.
_ENCODERS: dict[type[PreTrainedConfig], type[PreTrainedModel]] = {}


def _encoder(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        whole = AutoModel.from_config(copy.deepcopy(config))
    return getattr(whole, "speech_encoder", None) or whole.get_encoder()  # some have a text encoder, too


def tower_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that encodes with `config`: `AutoModel`'s, or the encoder of a two-sided or encoder-decoder model."""
    if type(config) not in MODEL_MAPPING:
        # AutoModel knows few halves of two-sided models; their classes are named after their configs.
        name, halves = type(config).__name__.removesuffix("Config"), models_beside(type(config))
        if (half := halves.get(f"{name}Model") or halves.get(name)) is not None:
            return half
        raise ValueError(
            f"No AutoModel is registered for a tower of type {config.model_type!r}. Import the module that defines it "
            "first; register your own class with `@transformers_anymodality.register_tower`."
        )
    if config.is_encoder_decoder:
        if type(config) not in _ENCODERS:
            _ENCODERS[type(config)] = type(_encoder(config))
        return _ENCODERS[type(config)]
    classes = MODEL_MAPPING[type(config)]
    return encoding_half(classes[0] if isinstance(classes, (list, tuple)) else classes)


def build_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """A tower with random weights, built only from `config`. Safe on the meta device."""
    return build(tower_class(config), config)


def weightless(config: PreTrainedConfig) -> PreTrainedModel:
    """A tower on the meta device, of a copy of `config`."""
    with torch.device("meta"):
        return build_tower(copy.deepcopy(config))


def load_tower(
    source: str | os.PathLike | PreTrainedConfig | PreTrainedModel, medium: str, select_layer: int | None, **hub_kwargs
) -> PreTrainedModel:
    """A tower from a Hub id or local path (weights loaded), a config (random weights) or a loaded model (its encoder).

    Within `torch.device("meta")`, only the config of a Hub id or path is read.

    Raises:
        ValueError: weights that do not fill the tower exactly, or a model that cannot be rebuilt from its config.
    """
    if isinstance(source, PreTrainedConfig):
        return build_tower(tower_config(source, medium, select_layer))
    if isinstance(source, (str, os.PathLike)):
        check_folder(source, **hub_kwargs)
        if (config := config_alone(source, **hub_kwargs)) is not None:
            own = tower_config(config, medium, select_layer)
            own.dtype = config.dtype
            own.name_or_path = config.name_or_path
            return build_tower(own)
        whole = _loader(source, hub_kwargs).from_pretrained(source, **hub_kwargs)
    elif isinstance(source, PreTrainedModel):
        whole = source
        known = type(whole.config) in MODEL_MAPPING or models_beside(type(whole.config))
        if not known and not whole.config.is_encoder_decoder:
            register_tower(type(whole))
    else:
        raise TypeError(
            f"A tower is a Hub id, a local path, a config or a `PreTrainedModel`, not {type(source).__name__}. Wrap a "
            "plain module in a `PreTrainedModel` with a config, so that it can be saved and built again."
        )
    config = tower_config(whole.config, medium, select_layer)
    if type(whole) is tower_class(config) and config is whole.config:
        return whole
    return _fill(weightless(config), whole)


def _loader(source: str | os.PathLike, hub_kwargs: dict[str, Any]) -> type:
    """The class to load a checkpoint with: `AutoModel`, or the class of an encoder that was saved alone."""
    config = AutoConfig.from_pretrained(source, **{k: v for k, v in hub_kwargs.items() if k != "dtype"})
    alone = config.is_encoder_decoder and config.architectures == [tower_class(config).__name__]
    return tower_class(config) if alone else AutoModel


def _fill(tower: PreTrainedModel, whole: PreTrainedModel) -> PreTrainedModel:
    """Moves the weights of `whole` (or of the one submodule that matches) into the weightless `tower`."""
    wanted = {name: tensor.shape for name, tensor in tower.state_dict().items()}
    for module in whole.modules():
        state = module.state_dict()
        if all(name in state and state[name].shape == shape for name, shape in wanted.items()):
            break
    else:
        raise ValueError(
            f"No part of {type(whole).__name__} holds the weights of a {type(tower).__name__}: pass the encoder itself "
            "as the tower."
        )
    tower.load_state_dict({name: state[name] for name in wanted}, assign=True)
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(module.get_parameter(name).requires_grad)
    for name, buffer in list(tower.named_buffers()):
        if buffer.is_meta:  # buffers that are not saved: position ids, masks
            owner, _, leaf = name.rpartition(".")
            setattr(tower.get_submodule(owner), leaf, module.get_buffer(name))
    tower.config.name_or_path = whole.config.name_or_path
    return tower.train(whole.training)


def feature_length(
    config: PreTrainedConfig,
    outputs: Mapping[str, torch.Tensor],
    channels_first: bool | None = None,
    packed: bool = False,
) -> int:
    """Number of features that a tower gives for one item, whose sub-processor gave `outputs`. The tower runs without data,
    once for each shape. A `packed` tower runs its first layer on the data, with random weights, because its mask decides.
    `channels_first` and `packed` are as in `run_tower`."""
    if packed:
        with _counting, torch.no_grad():
            tower = _first_layer(type(config), config.to_json_string(use_diff=False))
            arguments = {argument: outputs[name] for name, argument in match_arguments(tower, outputs).items()}
            return len(read_features(tower, tower(**arguments, return_dict=True), packed=True))
    shapes = tuple((name, value.shape, value.dtype) for name, value in outputs.items())
    return _feature_length(type(config), config.to_json_string(use_diff=False), channels_first, shapes)


_Shapes = tuple[tuple[str, torch.Size, torch.dtype], ...]


@lru_cache(maxsize=65536)
def _feature_length(
    config_class: type[PreTrainedConfig], serialized: str, channels_first: bool | None, shapes: _Shapes
) -> int:
    with _counting:
        try:
            return _counter(config_class, serialized, channels_first)(shapes)
        except (RuntimeError, TypeError):  # the forward reads data, or mixes devices
            return _counter(config_class, serialized, channels_first, traced=True)(shapes)


@lru_cache(maxsize=4)
def _first_layer(config_class: type[PreTrainedConfig], serialized: str) -> PreTrainedModel:
    config = config_class.from_dict(json.loads(serialized))
    config.dtype = torch.float32
    with suppress(ValueError):  # there is no stack of layers
        config = cut_layers(config, 1)
    with torch.random.fork_rng(devices=()), torch.device("cpu"):
        return build_tower(config).eval()


_counting = threading.Lock()  # servers prepare media in threads


@lru_cache(maxsize=4)
def _counter(
    config_class: type[PreTrainedConfig], serialized: str, channels_first: bool | None, traced: bool = False
) -> "_FeatureCounter":
    return _FeatureCounter(config_class.from_dict(json.loads(serialized)), channels_first, traced)


class _FeatureCounter:
    """Runs a tower without data. Recordings have thousands of lengths, and layers seldom change the number of features. So
    the first layer runs alone, once it has agreed with the full tower on two items of different length.

    Args:
        traced: use fake tensors, which support more forwards than the meta device, and are slower.
    """

    def __init__(self, config: PreTrainedConfig, channels_first: bool | None = None, traced: bool = False):
        self.channels_first = channels_first
        self.where, self.device = (FakeTensorMode(), "cpu") if traced else (nullcontext(), "meta")
        self.whole, self.shallow, self.agreed = self._built(config), None, set()
        with suppress(ValueError):  # there is no stack of layers
            self.shallow = self._built(cut_layers(config, 1))

    def _built(self, config: PreTrainedConfig) -> PreTrainedModel:
        with torch.device(self.device), self.where:
            return build_tower(copy.deepcopy(config)).eval()

    def __call__(self, shapes: _Shapes) -> int:
        with torch.device(self.device), self.where:
            return self._agreed({name: torch.empty(shape, dtype=dtype) for name, shape, dtype in shapes})

    def _agreed(self, outputs: Mapping[str, torch.Tensor]) -> int:
        if len(self.agreed) == 2:
            return self._count(self.shallow, outputs)
        length = self._count(self.whole, outputs)
        try:
            if self.shallow is not None and self._count(self.shallow, outputs) == length:
                self.agreed.add(length)
            else:
                self.shallow = None
        except (TypeError, ValueError, RuntimeError, IndexError):
            self.shallow = None
        return length

    @torch.no_grad()
    def _count(self, tower: PreTrainedModel, outputs: Mapping[str, torch.Tensor]) -> int:
        arguments = {argument: outputs[name] for name, argument in match_arguments(tower, outputs).items()}
        main = main_input(tower)
        try:
            # Masks do not change the number, and many forwards read their values, which are not there.
            output = tower(**{main: arguments[main]}, return_dict=True)
        except (TypeError, AttributeError):
            output = tower(**arguments, return_dict=True)
        return read_features(tower, output, channels_first=self.channels_first).shape[1]
