"""Finds out what configs do not say: a dummy input runs through processor, tower and aligner.

A tower runs on one item, which shows its features and the weights that they depend on. It runs on two items, to check that
they do not mix, and without its unused weights, to check that the features stay the same. If the number of features may
vary, it also runs on a longer item.
"""

import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from ..model.by_size import INPUT_SIZES
from ..model.language_model import build_language_model, reads_input_ids
from ..towers import (
    MASKS,
    build_tower,
    drop_unread,
    feature_length,
    main_input,
    match_arguments,
    outermost,
    put_back,
    required_arguments,
    trace_tower,
)
from ..utils.tensors import in_eval
from ..utils.upstream import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
from .packed import counts, find_grid, of_grids, try_packed
from .padding import channels_first, find_multiple, stands_padding
from .part import Part, Reading, Trial
from .running import Inputs, check_apart, dummy_input, run_part, tower_arguments
from .small import is_weightless, on_cpu, on_small_copy, without_data


# Key: the tower and how it is read.
Trials = dict[tuple[Any, ...], Trial]


# --- towers --------------------------------------------------------------------------------------------------------


@on_cpu()
def try_tower(part: Part, trials: Trials) -> None:
    """Finds inputs and features with a short and a long dummy input. Trials in `trials` are not run again.

    Raises ValueError if processor and tower do not fit each other, or the tower cannot be read.
    """
    try:
        _try_tower(part, trials)
    except ValueError:
        multiple = part.spec.medium == "audio" and "pad_to_multiple_of" not in part.options and find_multiple(part)
        if not multiple:
            raise
        part.options["pad_to_multiple_of"] = multiple
        _try_tower(part, trials)


def _try_tower(part: Part, trials: Trials) -> None:
    part.cut, config = part.spec.most_frames(part.options) is not None, part.config
    items = short, long = [dummy_input(part, size) for size in (0, 1)]
    part.arguments = match_arguments(part.tower, short)
    main = next(iter(part.arguments))
    if grid := find_grid(short, part.arguments):
        items = short, long = of_grids(part, items, grid)
    shape, rows = short[main].shape[1:], len(short[main])
    config.input_dtype = str(short[main].dtype).removeprefix("torch.")
    config.marks_padding = None
    config.inputs = {_input_name(part.name, key, main): argument for key, argument in part.arguments.items()}
    names = dict(zip(part.arguments, config.inputs, strict=True))
    config.grid = grid and names[grid]
    if not grid:
        part.frame_counts = next((key for key, value in short.items() if counts(value, rows)), None)
    per_frame = part.asked.per_frame
    config.per_frame = not grid and (_reads_frames(part, short[main]) if per_frame is None else bool(per_frame))
    if part.cut and not grid and "num_frames" in part.options and not config.per_frame:
        raise ValueError(
            f"The tower of {part.name!r} reads {shape[0]} frames at once, so `fps` does not apply: leave it out."
        )
    fixed = not grid and (part.asked.select_feature == "pooled" or shape == long[main].shape[1:])
    shapes = tuple((item[key].shape, item[key].dtype) for item in items for key in part.arguments)
    reading = (part.tower, config.per_frame, part.asked.select_feature, grid, shapes)
    if reading not in trials:
        trials[reading] = (_try_weightless if is_weightless(part.tower) else _try)(part, part.tower, items, fixed)
    part.trial = trials[reading]
    config.marks_padding = part.trial.marks_padding
    _, config.select_feature, config.packed, config.channels_first = part.trial.reading
    if part.trial.one_size:
        part.arguments[INPUT_SIZES] = config.inputs[f"{part.name}_{INPUT_SIZES}"] = INPUT_SIZES
    # If all features are one row, different numbers of frames cannot be told apart.
    part.cut = part.cut or (config.packed and config.per_frame)
    config.num_frames = None if part.cut or part.frame_counts else shape[0] if config.per_frame else 1
    smallest, needed = part.trial.smallest or short, required_arguments(part.tower)
    config.input_shape = list(smallest[main].shape[1:])
    config.beside = {
        name: _beside(smallest[key])
        for key, name in names.items()
        if key != main and (key == grid or part.arguments[key] in needed)
    }
    part.trimmed = part.cut and fixed and part.spec.medium != "pixels" and _follows_time(part, short)
    config.feature_length = part.trial.length if fixed and not config.packed and not part.trimmed else None


def _beside(value: torch.Tensor) -> Any:
    """What the config keeps of a further input for a dummy item: floats and masks by shape, others by values."""
    if value.is_floating_point():
        return {"shape": [*value.shape]}
    if value.shape[-1] > 4 and value.ndim == 2 and int(value.min()) >= 0 and int(value.max()) == 1:
        return {"shape": [*value.shape], "dtype": str(value.dtype).removeprefix("torch.")}
    return value.tolist()


def _reads_frames(part: Part, values: torch.Tensor) -> bool:
    """Whether a tower reads the frames of these inputs one by one."""
    tower, clips = part.tower, values.ndim > 5  # `(items, clips, channels, frames, height, width)`
    native = tower.config.model_type in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES or "video" in main_input(tower)
    return "num_frames" in part.options and not (native or clips)


def _input_name(modality: str, key: str, main: str) -> str:
    """Name of a model input: Transformers' own if there is one, else `<modality>_values` and `<modality>_<key>`."""
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
        with in_eval(tower):
            return try_packed(part, tower, items)
    # The second item has the same shape: the same numbers in another order.
    both = {key: torch.cat([value, value.flip(-1) if key == main else value]) for key, value in short.items()}
    with in_eval(tower):
        alone = tower_arguments(part, tower, short)
        rows = len(next(iter(alone.values())))
        reading = _dense(part)
        if not fixed:
            reading = (*reading[:3], channels_first(part, tower, [short, long], reading))
        features, unread = run_part(part, tower, alone, reading, trace_tower)
        beside = run_part(part, tower, tower_arguments(part, tower, both), reading)[0]
        if (len(features), len(beside)) != (rows, 2 * rows):
            return try_packed(part, tower, items)
        others = (argument for key, argument in part.arguments.items() if key in MASKS and argument not in MASKS)
        mask = next(others, None)
        # If different items have the same features, the mask has marked everything as padding.
        if mask != part.config.marks_padding and torch.equal(beside[:rows], beside[rows:]):
            part.config.marks_padding = mask
            return _try(part, tower, items, fixed)
        check_apart(part, features, beside)
        differ = not part.config.per_frame and short[main].shape[1:] != long[main].shape[1:]
        longer = features
        if differ or not fixed:
            longer = run_part(part, tower, tower_arguments(part, tower, long), reading)[0]
        if not fixed:
            _check_length(part, items, [features.shape[1], longer.shape[1]], reading[3])
        # The last steps before a multiple are read together with padding, and a padding mask may let its first step
        # through; one dummy input cannot prove that this never matters.
        reads_padding = "pad_to_multiple_of" in part.options or part.config.marks_padding is not None
        one_size = differ and (reads_padding or not stands_padding(part, tower, [features, longer], reading))
    _, length, width = features.shape
    return Trial(tower, alone, features, length, width, unread, reading, part.config.marks_padding, one_size)


def _dense(part: Part) -> Reading:
    """How to read a tower whose items have separate features."""
    return part.config.select_layer, part.asked.select_feature or "all", False, None


def _try_weightless(part: Part, tower: PreTrainedModel, items: list[Inputs], fixed: bool) -> Trial:
    """Tries a tower without weights: shapes and the graph on the full tower, values on a small copy."""
    tower.to("meta")  # some towers create a few weights with data anyway
    arguments = tower_arguments(part, tower, items[0])
    with in_eval(tower):
        reading = _dense(part)
        if not fixed:
            reading = (*reading[:3], without_data(partial(channels_first, part, tower, items, reading)))
        traced = without_data(partial(run_part, part, tower, arguments, reading, trace_tower))
        if traced is None:  # many forwards read the values of their mask, but do not need a mask
            with suppress(ValueError):
                main = dict([next(iter(arguments.items()))])
                traced = without_data(partial(run_part, part, tower, main, reading, trace_tower))

    def question(copy: PreTrainedModel) -> Trial:
        trial = _try(part, copy, items, fixed)
        if not trial.features.isfinite().all() or (traced is not None and trial.length != traced[0].shape[1]):
            raise RuntimeError(f"the copy gives {trial.length} features, or some are NaN or infinite")
        return trial

    # If the tower reads data, its copy must be as wide as the tower.
    trial = on_small_copy(tower.config, build_tower, question, same_width=traced is None)
    if traced is not None:
        return replace(trial, width=traced[0].shape[2], unread=traced[1])
    names, known = (dict(one.named_parameters()).keys() for one in (tower, trial.tower))
    stacks = tuple(re.split(r"\d", name)[0] for name in names - known)  # layers missing from the copy may be read
    return replace(trial, unread={name for name in trial.unread if not name.startswith(stacks)})


def _check_length(part: Part, items: list[Inputs], lengths: list[int], channels_first: bool | None) -> None:
    """Raises ValueError unless the number of features of a short and a long item can be found without data."""
    kind = type(part.tower).__name__
    try:
        counted = [feature_length(part.tower.config, item, channels_first) for item in items]
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"The tower of {part.name!r} ({kind}) gives a number of features that varies, and it cannot be counted "
            f"without running the tower: {error}"
        ) from error
    if lengths != counted or lengths[0] == lengths[1]:
        raise ValueError(
            f"The tower of {part.name!r} ({kind}) gives {lengths} features for a short and a long item, but its "
            f"config gives {counted}: it does not say their width."
        )


def _follows_time(part: Part, inputs: Inputs) -> bool:
    """Whether a tower of recordings gives features in the order of time: it counts the features of shorter recordings, or
    reads shorter ones."""
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
    """Removes from each tower the modules that no modality reads, if the features stay the same; else freezes them."""
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
                    run_part(part, tower, part.trial.arguments, part.trial.reading, trace_tower)[0],
                    part.trial.features,
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
            f"The aligner of {part.config.aligner!r} goes from width {config.feature_size} to {config.hidden_size}, but "
            f"the tower of {name!r} and the language model have {part.trial.width} and {hidden}."
        )
    if count not in (None, config.num_tokens):
        raise ValueError(
            f"num_tokens={count} is set for {name!r}, but the aligner of {part.config.aligner!r} has "
            f"{config.num_tokens}: set it there."
        )
    if part.options.get("timestamps") and config.reads == "item" and not config.per_frame:
        raise ValueError(
            f"The aligner of {name!r} reads all frames at once, so timestamps cannot stand between them: leave out "
            "`timestamps`, or choose an aligner whose tokens follow frames (linear, mlp, or per_frame=True)."
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
            f"The aligner of {name!r} gives {given} tokens for features of shape {shape}, but `count_tokens` says {counted}."
        )


@torch.no_grad()
def _count_tokens(aligner: PreTrainedModel, shape: tuple[int, int, int]) -> int:
    """Tokens that an aligner gives for an item of `shape` (frames, length, dim); a copy has its own width."""
    zeros = next(aligner.parameters()).new_zeros
    table = {"token_embeddings": zeros(2, aligner.config.hidden_size)} if aligner.reads_token_embeddings else {}
    with in_eval(aligner):
        output = aligner(zeros(1, *shape[:2], aligner.config.feature_size), **table)
    return (output[0] if isinstance(output, tuple) else output).shape[1]


# --- the language model --------------------------------------------------------------------------------------------


@on_cpu()
def try_language_model(language: PreTrainedModel) -> bool:
    """Whether the language model uses ids for more than embeddings; see `reads_input_ids`."""
    if is_weightless(language):
        return on_small_copy(language.config, build_language_model, reads_input_ids, few_words=True)
    with in_eval(language):
        return reads_input_ids(language)
