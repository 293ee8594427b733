"""Published systems by name: each is a function that returns arguments of `compose`."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ..utils.registry import Registry


def template_beside(file: str, name: str = "chat_template") -> str:
    """The text of `<name>.jinja` in the folder of `file`."""
    return Path(file).with_name(f"{name}.jinja").read_text(encoding="utf-8")


# What the templates of the systems begin with: the words of a message, whose media they place themselves.
WORDS = template_beside(__file__, "words")

SYSTEMS: Registry[Callable[..., dict[str, Any]]] = Registry("system")


def register_system(preset: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Function decorator: makes a preset known by the function's name."""
    return SYSTEMS.register(preset.__name__, preset)


def chosen(names: Iterable[str], known: tuple[str, ...], system: str) -> list[str]:
    """The chosen modalities of a system, in its own order. Raises ValueError for unknown ones."""
    names = set(names)
    if unknown := sorted(names - set(known)):
        raise ValueError(f"{system} has no {', '.join(unknown)}; its modalities are {', '.join(known)}.")
    return [name for name in known if name in names]


def tower_settings(given: Any, own: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """A modality's settings for `compose`, from what a preset's `towers` has for it: a tower, settings, or None. Where
    that brings no tower, `own` makes the system's."""
    settings = given if isinstance(given, Mapping) else {"tower": given}
    return dict(settings) if settings.get("tower") is not None else {**settings, "tower": own()}


def config_at_hand(tower: Any) -> PreTrainedConfig | None:
    """The config of a tower as `compose` takes it; None for one that is yet to be loaded."""
    config = getattr(tower, "config", tower)
    return config if isinstance(config, PreTrainedConfig) else None


def cropped(side: int) -> dict[str, dict[str, int]]:
    """Sizes for image and video processors that resize the shorter side and crop the middle."""
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def register_processor(auto_class: Any, model_type: str, *processor: type, **kinds: Any) -> None:
    """Makes a sub-processor loadable by an Auto class, whose table has configs for keys: by one that stands for it,
    whose `model_type` no model has. `processor` or `kinds` is the class, as `auto_class.register` takes it."""
    stand_in = type(f"{model_type}_config", (PreTrainedConfig,), {"model_type": model_type})
    with suppress(ImportError):  # of an Auto class that lacks its libraries, and so loads nothing
        auto_class.register(stand_in, *processor, **kinds, exist_ok=True)
