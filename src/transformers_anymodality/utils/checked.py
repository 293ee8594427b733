"""Checks of values from a checkpoint's JSON: one kind of error, which names the file and the key."""

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, is_typeddict

import torch


# Sizes and ids; tensors and tokenizers have no larger ones.
_MOST = 2**31 - 1
# Layers are built one after another, and no other check finds that there are too many.
_BUILT, _MOST_BUILT = re.compile(r"(layer|depth|block|stage)s?$"), 10_000
_SIZE = re.compile(r"((hidden|intermediate|vocab|head)_(size|dim)|_(heads|layers|channels))$")


class ConfigError(ValueError):
    """A file of a checkpoint holds invalid values."""


@contextmanager
def read_from(file: str) -> Iterator[None]:
    """Turns errors from the file's values into a ConfigError that names the file. Errors about missing files, imports or
    memory stay as they are."""
    try:
        yield
    except (OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except ConfigError as error:
        raise (error if str(error).startswith(file) else ConfigError(f"{file}: {error}")) from error
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    except Exception as error:
        if torch.get_default_device().type == "meta":  # the caller's choice
            raise
        raise ConfigError(f"{file}: its values cannot be used ({type(error).__name__}: {error}).") from error


def check_fields(where: str, values: Mapping[str, Any], hints: Mapping[str, Any], least: Mapping[str, int]) -> None:
    """Raises ConfigError for a value of another type than its annotation, an infinite number, or one below its least.

    Args:
        where: the keys that lead to the values.
        least: field -> its smallest valid number.
    """
    for name, value in values.items():
        if not _fits(value, hints[name]):
            hint = hints[name]
            expected = str(hint).replace("typing.", "") if get_origin(hint) else hint.__name__
            raise ConfigError(f"`{where}.{name}` is {value!r:.80}; it must be {expected}.")
        numbers = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, (int, float))]
        if name in least and any(one < least[name] for one in numbers):
            raise ConfigError(f"`{where}.{name}` is {value!r:.80}; it must be {least[name]} or more.")


def check_numbers(where: str, value: Any, finite: bool = False) -> None:
    """Raises ConfigError for NaN in a config, for infinity if values must be `finite`, for a negative size, and for more
    layers than any model has: building them would not end."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_numbers(f"{where}.{key}", inner, finite)
    elif isinstance(value, list):
        for inner in value:
            check_numbers(where, inner, finite)
    elif isinstance(value, float) and (math.isnan(value) or finite and math.isinf(value)):
        raise ConfigError(f"`{where}` is {'NaN' if math.isnan(value) else value}; it must be a finite number.")
    elif isinstance(value, (int, float)):
        if value < 0 and _SIZE.search(where):
            raise ConfigError(f"`{where}` is {value}; it must not be negative.")
        if value > _MOST_BUILT and _BUILT.search(where):
            raise ConfigError(f"`{where}` is {value}; it must be at most {_MOST_BUILT}.")


def check_flags(where: str, values: Mapping[str, Any], cls: Any) -> None:
    """Raises ConfigError if a class of Transformers declares a bool and gets another value (0, 1 and null are allowed), or
    if a class that prepares media gets a bool where it declares a number, or has one as the default. Transformers does
    not check this itself."""
    fields, parts = getattr(cls, "__dataclass_fields__", None), getattr(cls, "sub_configs", None)
    if fields is not None:
        hints, defaults = {name: field.type for name, field in fields.items()}, {}
    else:
        arguments = inspect.signature(cls.__init__).parameters
        hints = getattr(getattr(cls, "valid_kwargs", None), "__annotations__", {})
        defaults = {
            name: arguments[name].default if name in arguments else getattr(cls, name, None) for name in values
        }
    for name, value in values.items():
        if isinstance(parts, Mapping) and name in parts and isinstance(value, Mapping):
            check_flags(f"{where}.{name}", value, parts[name])
        _check_table(f"{where}.{name}", value, hints.get(name))
        kinds, default = _plain_kinds(hints.get(name)), defaults.get(name)
        if not kinds and isinstance(default, (int, float)) and not isinstance(default, bool):
            kinds = {type(default)}  # it may be an enum of numbers
            if name not in hints and isinstance(value, (list, Mapping, str)):
                raise ConfigError(f"`{where}.{name}` is {value!r:.80}; it must be a number.")
        if kinds == {bool} and value is not None and (isinstance(value, float) or value not in (0, 1)):
            raise ConfigError(f"`{where}.{name}` is {value!r:.80}; it must be true or false.")
        if fields is None and kinds and bool not in kinds and _holds_flag(value):
            raise ConfigError(f"`{where}.{name}` is {value!r:.80}; it must not be true or false.")


def _check_table(where: str, value: Any, hint: Any) -> None:
    """Raises ConfigError for a bool where a TypedDict in the annotation has a number."""
    tables = [one.__annotations__ for one in (hint, *get_args(hint)) if is_typeddict(one)]
    for key, inner in value.items() if tables and isinstance(value, Mapping) else ():
        _check_table(f"{where}.{key}", inner, hint)  # there may be one table for each kind of layer
        kinds = set().union(*(_plain_kinds(table.get(key)) for table in tables))
        if kinds and bool not in kinds and _holds_flag(inner):
            raise ConfigError(f"`{where}.{key}` is {inner!r:.80}; it must not be true or false.")


def _holds_flag(value: Any) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return isinstance(value, bool) or any(map(_holds_flag, inner))


def _plain_kinds(hint: Any) -> set[Any]:
    """The types in an annotation, also inside lists and tables, without None; empty if the annotation is unknown or names
    other classes."""
    if isinstance(hint, str):
        return {bool} if hint.replace(" ", "") in ("bool", "bool|None", "None|bool") else set()
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _plain_kinds(inner[0])
    kinds = [_plain_kinds(one) for one in inner if one not in (NoneType, ...)]
    own = set() if origin in (Union, UnionType) else {origin or hint}
    return own.union(*kinds) if own <= {bool, int, float, str, list, tuple, dict} and all(kinds) else set()


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(*pair) for item in value.items() for pair in zip(item, inner, strict=True)
        )
    if hint in (int, float):
        number = isinstance(value, int) or (hint is float and isinstance(value, Real))
        return number and not isinstance(value, bool) and math.isfinite(value) and abs(value) <= _MOST
    return hint is Any or isinstance(value, NoneType if hint is None else hint)
