"""A table of named entries: registered once, looked up by exact name; errors suggest the nearest name."""

import difflib
import importlib
import re
import typing
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar


if TYPE_CHECKING:
    from transformers import PreTrainedModel


T = TypeVar("T")
_SHORT = 6  # characters; longer names often share a beginning ("input_smell", "input_image"), so must be nearer


class UnknownNameError(ValueError):
    """Nothing is registered under a name; perhaps the module that registers it was not imported."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest known name, or nothing if none is near."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6 if len(str(name)) < _SHORT else 0.75)
    return f" Did you mean {near[0]!r}?" if near else ""


class Registry(dict[str, T]):
    """Maps exact names to entries; `kind` is the word that errors use for an entry ("aligner", "modality")."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def register(self, name: str, entry: T, *, exist_ok: bool = False) -> T:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"{self.kind} name {name!r} must be lower-case letters, digits and underscores.")
        if dict.__contains__(self, name) and not exist_ok:
            raise ValueError(f"There already is a {self.kind} named {name!r}; pass exist_ok=True to replace it.")
        self[name] = entry
        return entry

    def __missing__(self, name: str) -> T:
        hint = did_you_mean(name, self)
        raise UnknownNameError(f"Unknown {self.kind} {name!r}.{hint} Registered: {', '.join(self) or 'none'}.")


# Modules that register entries when imported: a `LazyRegistry` imports them when it needs them.
LATER: list[str] = []


class LazyRegistry(Registry[T]):
    """Loads all its entries when an unknown name is looked up, or when entries are listed."""

    def _whole(self) -> "LazyRegistry[T]":
        for module in LATER:
            importlib.import_module(module)
        return self

    def __missing__(self, name: str) -> T:
        return self[name] if dict.__contains__(self._whole(), name) else super().__missing__(name)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or dict.__contains__(self._whole(), name)

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self._whole())

    def __len__(self) -> int:
        return dict.__len__(self._whole())

    def keys(self):
        return dict.keys(self._whole())

    def values(self):
        return dict.values(self._whole())

    def items(self):
        return dict.items(self._whole())


def config_class_of(cls: type) -> type:
    """The config class in a model class's annotation, also if annotations are strings."""
    config_class = getattr(cls, "config_class", None)
    if not isinstance(config_class, type):
        config_class = typing.get_type_hints(cls).get("config")
    if not (isinstance(config_class, type) and getattr(config_class, "model_type", "")):
        raise TypeError(
            f"{cls.__name__} needs an annotation `config: MyConfig`; MyConfig must be a `PreTrainedConfig` with its own "
            "`model_type`."
        )
    cls.config_class = config_class
    return config_class


def models_beside(config_class: type) -> "dict[str, type[PreTrainedModel]]":
    """The models that Transformers defines for exactly this config class, by name: halves of models, unknown to Auto."""
    from transformers import PreTrainedModel

    package, found, name = config_class.__module__.rpartition(".configuration_")
    if not (found and package.startswith("transformers.models.")):
        return {}
    models = vars(importlib.import_module(f"{package}.modeling_{name}"))
    return {
        name: cls
        for name, cls in models.items()
        if isinstance(cls, type) and issubclass(cls, PreTrainedModel) and cls.config_class is config_class
    }
