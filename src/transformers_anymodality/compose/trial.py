"""What is not said is tried: a dummy input runs through processor, tower and aligner.

A tower runs on one item, to see its features and which weights they depend on; on two, to see that items stay apart; and
without the weights that nothing depends on, to see that nothing does. One that gives each item another number of features
runs on a longer item, too.
"""

import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from ..model.language_model import build_language_model, reads_input_ids
from ..processing.media_inputs import extract
from ..towers import (
    build_tower,
    compute_dtype,
    drop_unread,
    feature_length,
    main_input,
    match_arguments,
    outermost,
    put_back,
    required_arguments,
    run_tower,
    trace_tower,
)
from ..utils.tensors import in_eval
from ..utils.upstream import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
from .part import Part, Trial
from .small import is_weightless, on_cpu, on_small_copy, without_data


Inputs = dict[str, torch.Tensor]
# By tower and the way in which it is read.
Trials = dict[tuple[Any, ...], Trial]


# --- towers --------------------------------------------------------------------------------------------------------


@on_cpu()
def try_tower(part: Part, trials: Trials) -> None:
    """Sees what inputs and features are, by a short and a long dummy input. What is in `trials` is not asked again.

    Raises ValueError if processor and tower do not fit each other, or the tower cannot be read.
    """
    items = short, long = [_dummy_input(part, size) for size in (0, 1)]
    part.arguments = match_arguments(part.tower, short)
    main = next(iter(part.arguments))
    config, shape, rows = part.config, short[main].shape[1:], len(short[main])
    config.inputs = {_input_name(part.name, key, main): argument for key, argument in part.arguments.items()}
    config.input_shape, config.input_dtype = list(shape), str(short[main].dtype).removeprefix("torch.")
    grid = next((key for key in part.arguments if rows > 1 and _adds_up(short[key], rows)), None)
    names = dict(zip(part.arguments, config.inputs, strict=True))
    config.grid = grid and names[grid]
    part.frame_counts = None if grid else next((key for key, value in short.items() if _counts(value, rows)), None)
    per_frame = part.asked.per_frame
    config.per_frame = not grid and (_reads_frames(part, short[main]) if per_frame is None else bool(per_frame))
    cut = part.spec.most_frames(part.options) is not None and not grid
    if cut and "num_frames" in part.options and not config.per_frame:
        raise ValueError(
            f"The tower of {part.name!r} reads {shape[0]} frames at once, not so many a second: leave out `fps`."
        )
    config.num_frames = None if cut else shape[0] if config.per_frame else 1
    fixed = not grid and (part.asked.select_feature == "pooled" or shape == long[main].shape[1:])
    shapes = tuple((item[key].shape, item[key].dtype) for item in items for key in part.arguments)
    reading = (part.tower, config.per_frame, part.asked.select_feature, grid, shapes)
    if reading not in trials:
        trials[reading] = (_try_weightless if is_weightless(part.tower) else _try)(part, part.tower, items, fixed)
    part.trial = trials[reading]
    _, config.select_feature, config.packed = part.trial.reading
    needed = required_arguments(part.tower)
    config.beside = {
        name: short[key].tolist()
        for key, name in names.items()
        if key != main and (key == grid or part.arguments[key] in needed)
    }
    part.trimmed = cut and fixed and part.spec.medium != "pixels" and _follows_time(part, short)
    config.feature_length = part.trial.length if fixed and not config.packed and not part.trimmed else None


def _adds_up(value: torch.Tensor, rows: int) -> bool:
    """Whether the products of its rows are as many as there are rows of the main input: grids of patches."""
    return value.ndim == 2 and not value.is_floating_point() and int(value.prod(-1).sum()) == rows


def _counts(value: torch.Tensor, rows: int) -> bool:
    """Whether it says of one item that it has so many rows."""
    return value.shape == (1,) and not value.is_floating_point() and rows > 1 and int(value) == rows


def _reads_frames(part: Part, values: torch.Tensor) -> bool:
    """Whether a tower reads the frames of these inputs one by one."""
    tower, clips = part.tower, values.ndim > 5  # `(items, clips, channels, frames, height, width)`
    native = tower.config.model_type in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES or "video" in main_input(tower)
    return "num_frames" in part.options and not (native or clips)


@torch.no_grad()
def _dummy_input(part: Part, size: int) -> Inputs:
    spec, processor, options = part.spec, part.processor, part.options
    try:
        item = spec.read(spec.dummy(processor, options, size), processor, options)
        frames = [item] if spec.most_frames(options) is None else spec.frames(item, processor, options)
        return extract(spec, frames, processor, options)
    except Exception as error:
        raise ValueError(
            f"The processor of {part.name!r} ({type(processor).__name__}) cannot prepare a dummy input: {error}"
        ) from error


def _input_name(modality: str, key: str, main: str) -> str:
    """Name of a model input: Transformers' own where it has one, else `<modality>_values` and `<modality>_<key>`."""
    canonical = {
        ("image", "pixel_values"): "pixel_values",
        ("video", "pixel_values"): "pixel_values_videos",
        ("video", "pixel_values_videos"): "pixel_values_videos",
        ("audio", "input_features"): "input_features",
        ("audio", "input_values"): "input_values",
    }
    if key == main:
        return canonical.get((modality, key), f"{modality}_values")
    return canonical.get((modality, key)) or (key if key.startswith(f"{modality}_") else f"{modality}_{key}")


def _try(part: Part, tower: PreTrainedModel, items: list[Inputs], fixed: bool) -> Trial:
    short, long = ({key: item[key] for key in part.arguments} for item in items)
    main = next(iter(short))
    if part.config.grid or part.asked.select_feature == "merged":
        return _try_packed(part, tower, items)
    # Another item of the same shape: the same numbers in another order.
    both = {key: torch.cat([value, value.flip(-1) if key == main else value]) for key, value in short.items()}
    with in_eval(tower):
        alone = _arguments(part, tower, short)
        rows = len(next(iter(alone.values())))
        reading = _dense(part)
        features, unread = _run(part, tower, alone, reading, trace_tower)
        beside = _run(part, tower, _arguments(part, tower, both), reading)[0]
        if (len(features), len(beside)) != (rows, 2 * rows):
            return _try_packed(part, tower, items)
        _check_apart(part, features, beside)
        if not fixed:
            longer = _run(part, tower, _arguments(part, tower, long), reading)[0]
            _check_length(part, items, [features.shape[1], longer.shape[1]])
    _, length, width = features.shape
    return Trial(tower, alone, features, length, width, unread, reading)


def _dense(part: Part) -> tuple[int | None, str, bool]:
    """How a tower is read that gives each item its features."""
    return part.config.select_layer, part.asked.select_feature or "all", False


def _try_packed(part: Part, tower: PreTrainedModel, items: list[Inputs]) -> Trial:
    """Of a tower that gives the features of all items as one row: as they are merged, if they are, or else before it."""
    short, long = ({key: item[key] for key in part.arguments} for item in items)
    both = _arguments(part, tower, {key: torch.cat([short[key], long[key]]) for key in short})
    alone, asked = _arguments(part, tower, short), part.asked.select_feature
    merged = ["merged"] if part.config.select_layer is None else []
    choices = [*merged, "all"] if asked is None else [asked]
    for select in choices:
        reading = (part.config.select_layer, select, True)
        try:
            features, unread = _run(part, tower, alone, reading, trace_tower)
            longer = _run(part, tower, _arguments(part, tower, long), reading)[0]
            sizes, unit = _sizes(part, items, [len(features), len(longer)])
        except ValueError:
            if select == choices[-1]:
                raise
            continue
        _check_apart(part, torch.cat([features, longer]), _run(part, tower, both, reading)[0])
        break
    length, width = features.shape
    return Trial(tower, alone, features, length, width, unread, reading, sizes, unit)


def _sizes(part: Part, items: list[Inputs], lengths: list[int]) -> tuple[str, int]:
    """Which output of the sub-processor tells how many features an item has, by the product of its row over a unit."""
    for key in items[0]:
        if all(item[key].ndim == 2 and not item[key].is_floating_point() for item in items):
            products = [int(item[key].prod(-1).sum()) for item in items]
            unit = products[0] // lengths[0]
            if unit and products == [unit * length for length in lengths] and lengths[0] != lengths[1]:
                return key, unit
    raise ValueError(
        f"The tower of {part.name!r} ({type(part.tower).__name__}) gives the features of all items as one row, and "
        f"nothing that its processor gives tells how many each item has: {lengths} for a short and a long one."
    )


def _try_weightless(part: Part, tower: PreTrainedModel, items: list[Inputs], fixed: bool) -> Trial:
    """What shapes and the graph tell is seen of the whole tower, without data; what values tell, of a small copy."""
    tower.to("meta")  # some make a weight or two with data all the same
    arguments = _arguments(part, tower, items[0])
    with in_eval(tower):
        reading = _dense(part)
        traced = without_data(partial(_run, part, tower, arguments, reading, trace_tower))
        if traced is None:  # many a forward looks at its mask, and does without
            with suppress(ValueError):
                main = dict([next(iter(arguments.items()))])
                traced = without_data(partial(_run, part, tower, main, reading, trace_tower))

    def question(copy: PreTrainedModel) -> Trial:
        trial = _try(part, copy, items, fixed)
        if not trial.features.isfinite().all() or (traced is not None and trial.length != traced[0].shape[1]):
            raise RuntimeError(f"the copy gives {trial.length} features, or some that are not numbers")
        return trial

    # Where data decide, the copy's features must be as wide as the tower's.
    trial = on_small_copy(tower.config, build_tower, question, same_width=traced is None)
    if traced is not None:
        return replace(trial, width=traced[0].shape[2], unread=traced[1])
    names, known = (dict(one.named_parameters()).keys() for one in (tower, trial.tower))
    stacks = tuple(re.split(r"\d", name)[0] for name in names - known)  # layers that the copy lacks may read otherwise
    return replace(trial, unread={name for name in trial.unread if not name.startswith(stacks)})


def _arguments(part: Part, tower: PreTrainedModel, inputs: Inputs) -> Inputs:
    """Of a tower's forward: one row for each item, or for each frame."""
    device = next((weight.device for weight in tower.parameters()), torch.device("cpu"))
    arguments = {}
    for key, argument in part.arguments.items():
        value = inputs[key].to(device)
        value = value.to(compute_dtype(tower)) if value.is_floating_point() else value
        arguments[argument] = value.flatten(0, 1) if part.config.per_frame else value
    return arguments


@torch.no_grad()
def _run(
    part: Part, tower: PreTrainedModel, arguments: Inputs, reading: tuple, run: Callable[..., Any] = run_tower
) -> tuple:
    """What `run` gives, features `(items or frames, length, dim)` first, or `(features, dim)`."""
    try:
        return run(tower, arguments, *reading)
    except Exception as error:
        shapes = {name: tuple(value.shape) for name, value in arguments.items()}
        raise ValueError(
            f"The tower of {part.name!r} ({type(tower).__name__}) cannot read what its processor "
            f"({type(part.processor).__name__}) gives, {shapes}: {error}"
        ) from error


def _check_apart(part: Part, alone: torch.Tensor, beside: torch.Tensor) -> None:
    """Raises ValueError unless the tower gives an item the same features again, beside another one."""
    first = beside[: len(alone)]
    close = 1e-3 if alone.dtype == torch.float32 else 0.1
    if first.shape != alone.shape or (first - alone).abs().max() > close * alone.abs().max():
        cause = "it draws them at random" if first.shape == alone.shape else "it does not keep items apart"
        raise ValueError(
            f"The tower of {part.name!r} ({type(part.tower).__name__}) gives an item other features beside another one, "
            f"of shapes {tuple(alone.shape)} and {tuple(beside.shape)}: {cause}."
        )


def _check_length(part: Part, items: list[Inputs], lengths: list[int]) -> None:
    """Raises ValueError unless the number of features of a short and a long item can be told without data."""
    kind = type(part.tower).__name__
    try:
        counted = [feature_length(part.tower.config, item) for item in items]
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"The tower of {part.name!r} ({kind}) gives each item another number of features, and how many cannot be told "
            f"without running it: {error}"
        ) from error
    if lengths != counted or lengths[0] == lengths[1]:
        raise ValueError(
            f"The tower of {part.name!r} ({kind}) gives {lengths} features for a short and a long item, where {counted} "
            "were counted: its config does not tell their width."
        )


def _follows_time(part: Part, inputs: Inputs) -> bool:
    """Whether a tower of recordings gives features in the order of time: it tells how many shorter ones have, or reads
    such."""
    tower, length = part.tower, part.trial.length
    if length == 1 or hasattr(tower, "_get_feat_extract_output_lengths"):
        return length > 1
    main = next(iter(part.arguments))
    axis = 2 if getattr(part.processor, "channels_first", False) else 1
    if inputs[main].ndim != 3 or inputs[main].shape[axis] % 2:
        return False
    half = inputs[main].narrow(axis, 0, inputs[main].shape[axis] // 2)
    try:
        return feature_length(tower.config, {**inputs, main: half}) == -(-length // 2)
    except (RuntimeError, TypeError, ValueError):
        return False


# --- weights that are not read -------------------------------------------------------------------------------------


def drop_unread_weights(parts: Collection[Part]) -> None:
    """Takes out of each tower what no modality reads, if the features are then really the same; freezes the rest of it."""
    for owner in (part for part in parts if part.owns("tower")):
        readers = list({id(part.trial): part for part in parts if part.tower is owner.tower}.values())
        unread = set.intersection(*(part.trial.unread for part in readers))
        names = outermost(owner.tower, unread)
        without = names
        if not _same_without(names, readers):
            without = [name for name in names if _same_without([name], readers)]
            if not _same_without(without, readers):
                without = []
        kept = tuple(f"{name}." for name in names if name not in without)
        frozen = [name for name in unread if f"{name}.".startswith(kept)]
        owner.config.unread = sorted({*without, *frozen})
        drop_unread(owner.tower, owner.config.unread)


def _same_without(names: list[str], readers: list[Part]) -> bool:
    for part in readers:
        tower = part.trial.tower
        taken = drop_unread(tower, set(names).intersection(dict(tower.named_modules())))
        try:
            with in_eval(tower):
                if taken and not torch.equal(
                    _run(part, tower, part.trial.arguments, part.trial.reading, trace_tower)[0], part.trial.features
                ):
                    return False
        except ValueError:
            return False
        finally:
            put_back(tower, taken)
    return True


# --- aligners ------------------------------------------------------------------------------------------------------


@on_cpu()
def try_aligner(part: Part, hidden: int) -> None:
    """Raises ValueError if the aligner does not fit, or gives another number of tokens than it counts."""
    config, name, count = part.aligner.config, part.name, part.asked.num_tokens
    if (config.feature_size, config.hidden_size) != (part.trial.width, hidden):
        raise ValueError(
            f"The aligner of {part.config.aligner!r} goes from width {config.feature_size} to {config.hidden_size}; the "
            f"tower of {name!r} and the language model have {part.trial.width} and {hidden}."
        )
    if count not in (None, config.num_tokens):
        raise ValueError(
            f"num_tokens={count} is set for {name!r}, but the aligner of {part.config.aligner!r} has its own: "
            f"{config.num_tokens}. Set it there."
        )
    if part.options.get("timestamps") and config.reads == "item" and not config.per_frame:
        raise ValueError(
            f"The aligner of {name!r} reads all frames at once, so that no text can stand between them: leave out "
            "`timestamps`, or choose one whose tokens follow frames (linear, mlp, or per_frame=True)."
        )
    if config.sum_neighbours and config.num_tokens not in (None, 1):
        raise ValueError(
            f"The aligner of {name!r} adds neighbouring media into one token, but gives {config.num_tokens}."
        )
    frames = part.config.num_frames or 1
    shape = (frames, part.trial.length // frames if part.config.packed else part.trial.length, config.feature_size)
    counted = config.count_tokens(*shape[:2])
    try:
        given = without_data(partial(_count_tokens, part.aligner, shape))
        if given is None:
            given = on_small_copy(config, AutoModel.from_config, partial(_count_tokens, shape=shape))
    except Exception as error:
        raise ValueError(f"The aligner of {name!r} cannot read features of shape {shape}: {error}") from error
    if given != counted:
        raise ValueError(
            f"The aligner of {name!r} gives {given} tokens for features of shape {shape}, but counts {counted}."
        )


@torch.no_grad()
def _count_tokens(aligner: PreTrainedModel, shape: tuple[int, int, int]) -> int:
    """Tokens that an aligner gives for an item of `shape` (frames, length, dim); of a copy, the width is its own."""
    zeros = next(aligner.parameters()).new_zeros
    table = {"token_embeddings": zeros(2, aligner.config.hidden_size)} if aligner.reads_token_embeddings else {}
    with in_eval(aligner):
        output = aligner(zeros(1, *shape[:2], aligner.config.feature_size), **table)
    return (output[0] if isinstance(output, tuple) else output).shape[1]


# --- the language model --------------------------------------------------------------------------------------------


@on_cpu()
def try_language_model(language: PreTrainedModel) -> bool:
    """Whether it reads ids for more than their embeddings; see `reads_input_ids`."""
    if is_weightless(language):
        return on_small_copy(language.config, build_language_model, reads_input_ids, few_words=True)
    with in_eval(language):
        return reads_input_ids(language)
