"""Trials of towers that read or give all items as one row: patches of grids, features of any number."""

from contextlib import suppress
from typing import Any

import torch
from transformers import PreTrainedModel

from ..model.frames import in_rows
from ..towers import feature_length, trace_tower
from ..utils.tensors import are_grids, row_counts
from .part import Part, Trial
from .running import Inputs, check_apart, dummy_input, run_part, tower_arguments


# A dummy image of this size has 304 x 1088 pixels: some sub-processors cut larger ones than small ones into slices.
_LARGE = 16
_SIDES = (1, 2, 3, 4)


def find_grid(inputs: Inputs, arguments: dict[str, str]) -> str | None:
    """The input that says how many patches each frame has; the first input holds the patches."""
    main = inputs[next(iter(arguments))]
    return next((key for key in arguments if are_grids(inputs[key], main)), None)


def of_grids(part: Part, items: list[Inputs], grid: str) -> list[Inputs]:
    """The dummy inputs of such a tower, with patches in rows. Finds out whether an item is one grid or several: the spec's
    frames (`part.cut`), or slices that the sub-processor counts (`part.frame_counts`)."""
    main = next(iter(part.arguments))
    if part.options.get("timestamps"):
        pass  # text stands between the frames
    elif part.cut:  # frames of a video, which may be one grid together
        part.cut = False
        whole = [dummy_input(part, size) for size in (0, 1)]
        part.cut = len(whole[0][grid]) > 1
        items = items if part.cut else whole
    else:
        large = dummy_input(part, _LARGE) if len(items[0][grid]) == 1 else items[0]
        if (rows := len(large[grid])) > 1:
            part.frame_counts = next((key for key, value in large.items() if counts(value, rows)), None)
            part.cut = part.frame_counts is None
            if part.cut and "num_frames" not in part.options:
                raise ValueError(
                    f"The processor of {part.name!r} ({type(part.processor).__name__}) cuts an item into {rows} grids of "
                    "patches, but none of its outputs says how many each item has."
                )
    part.config.side_by_side = len(items[0][main]) != int(row_counts(items[0][grid]).sum())
    return [{**one, main: in_rows(one[main], one[grid])} for one in items]


def counts(value: torch.Tensor, rows: int) -> bool:
    """Whether `value` says that one item has `rows` rows."""
    return value.shape == (1,) and not value.is_floating_point() and rows > 1 and int(value) == rows


def try_packed(part: Part, tower: PreTrainedModel, items: list[Inputs]) -> Trial:
    """Tries a tower that gives the features of all items as one row: merged features if there are any, else unmerged."""
    (short, long), asked = items, part.asked.select_feature
    merged = ["merged"] if part.config.select_layer is None else []
    choices = [*merged, "all"] if asked is None else [asked]
    alone = tower_arguments(part, tower, short)
    for select in choices:
        reading = (part.config.select_layer, select, True, None)
        try:
            features, unread = run_part(part, tower, alone, reading, trace_tower)
            longer = run_part(part, tower, tower_arguments(part, tower, long), reading)[0]
            sizes, unit = _sizes(part, items, [len(features), len(longer)])
        except ValueError:
            if select == choices[-1]:
                raise
            continue
        both = tower_arguments(part, tower, _together(part))
        check_apart(part, torch.cat([features, longer]), run_part(part, tower, both, reading)[0])
        break
    length, width = features.shape
    trial = Trial(tower, alone, features, length, width, unread, reading, sizes=sizes, unit=unit)
    trial.smallest = _smallest(part, trial, short)
    return trial


def _together(part: Part) -> Inputs:
    """Both dummy inputs in one batch."""
    inputs, main = dummy_input(part, 0, 1), next(iter(part.arguments))
    if part.config.side_by_side:
        grid: Any = find_grid(inputs, part.arguments)
        inputs[main] = in_rows(inputs[main], inputs[grid])
    return inputs


def _sizes(part: Part, items: list[Inputs], lengths: list[int]) -> tuple[str | None, int]:
    """The sub-processor's output that gives the number of features of an item (the product of its row over a unit), and
    this unit; None if the tower's first layer gives the number."""
    for key in items[0]:
        values = [item[key].flatten(0, 1) if part.config.per_frame else item[key] for item in items]
        if not values[0].is_floating_point():
            products = [int(row_counts(value).sum()) for value in values]
            unit = products[0] // lengths[0]
            if unit and products == [unit * length for length in lengths] and lengths[0] != lengths[1]:
                return key, unit
    with suppress(RuntimeError, TypeError, ValueError):
        if lengths[0] != lengths[1] and lengths == [
            feature_length(part.tower.config, one, packed=True) for one in items
        ]:
            return None, 1
    raise ValueError(
        f"The tower of {part.name!r} ({type(part.tower).__name__}) gives the features of all items as one row. "
        f"No output of its processor says how many each item has ({lengths} for a short and a long item)."
    )


def _smallest(part: Part, trial: Trial, inputs: Inputs) -> Inputs | None:
    """The smallest square of patches that the tower reads; None if it does not read patches."""
    for side in _SIDES:
        if (small := _square(part, inputs, side)) is None:
            return None
        with suppress(ValueError):
            features = run_part(part, trial.tower, tower_arguments(part, trial.tower, small), trial.reading)[0]
            if len(features) and features.isfinite().all():
                return small
    return None


def _square(part: Part, inputs: Inputs, side: int) -> Inputs | None:
    """A square of the patches of one frame, by its grid or by the positions of patches, `(items, patches, 2)`."""
    main, first = next(iter(part.arguments)), {key: inputs[key][:1] for key in part.arguments}
    if grid := find_grid(inputs, part.arguments):
        shape = torch.ones_like(first[grid])
        shape[:, -2:] = side
        return {**first, grid: shape, main: inputs[main][: side * side]}
    places = next((one for one in first.values() if one.ndim == 3 and not one.is_floating_point()), None)
    if places is None:
        return None
    inside = ((places >= 0) & (places < side)).all(-1)[0]
    return {key: value[:, inside] if value.shape[:2] == places.shape[:2] else value for key, value in first.items()}
