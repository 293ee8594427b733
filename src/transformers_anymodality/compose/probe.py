"""What is not said is tried: a dummy medium runs through processor, tower and aligner."""

from __future__ import annotations

import torch
from transformers import (
    PreTrainedModel,
)

from ..towers import (
    drop_unread,
    feature_length,
    main_input,
    match_arguments,
    put_back,
    run_tower,
    unread_weights,
)
from ..utils.upstream import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
from .part import Part


def probe(part: Part) -> None:
    """Runs a made-up medium through processor and tower: what the inputs and features are is seen, not guessed."""
    tower, outputs = part.tower, [_made_up(part, size) for size in (0, 1)]
    part.arguments = match_arguments(tower, outputs[0])
    main = next(iter(part.arguments))
    pooled = part.settings.get("select_feature") == "pooled"
    fixed = pooled or outputs[0][main].shape == outputs[1][main].shape
    name = part.name
    native = tower.config.model_type in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES or "video" in main_input(tower)
    per_frame = part.settings.get("per_frame")
    if per_frame is None:
        clips = outputs[0][main].ndim > 5  # `(items, clips, channels, frames, height, width)`
        per_frame = "num_frames" in part.options and not (native or clips)
    shape = outputs[0][main].shape[1:]
    part.row.update(
        inputs={_input_name(name, key, main): argument for key, argument in part.arguments.items()},
        input_shape=list(shape),
        input_dtype=str(outputs[0][main].dtype).removeprefix("torch."),
        per_frame=bool(per_frame),
        num_frames=shape[0] if per_frame else 1,
        select_feature=part.settings.get("select_feature") or "all",
    )
    part.probe = {key: outputs[0][key] for key in part.arguments}
    features = _features(part)
    _check_batch(part, features)
    if not fixed:
        _check_length(part, outputs)
    part.row["feature_length"] = features.shape[1] if fixed else None
    part.settings["probed_length"], part.settings["feature_size"] = features.shape[1:]


@torch.no_grad()
def _made_up(part: Part, size: int) -> dict[str, torch.Tensor]:
    """What the sub-processor gives for a made-up medium."""
    spec, processor, options = part.spec, part.processor, part.options
    try:
        return spec.extract([spec.read(spec.dummy(processor, options, size), processor, options)], processor, options)
    except Exception as error:
        raise ValueError(
            f"The processor of {part.name!r} ({type(processor).__name__}) cannot prepare a made-up medium: {error}"
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
    return canonical.get((modality, key)) or (f"{modality}_values" if key == main else f"{modality}_{key}")


def _tower_arguments(part: Part) -> dict[str, torch.Tensor]:
    """What the tower's forward gets for the probe."""
    parameter, arguments = next(part.tower.parameters(), torch.empty(0)), {}  # a tower may have no weights
    for key, argument in part.arguments.items():
        value = part.probe[key]
        value = value.to(parameter.device, parameter.dtype if value.is_floating_point() else value.dtype)
        arguments[argument] = value.flatten(0, 1) if part.row["per_frame"] else value
    return arguments


def _features(part: Part) -> torch.Tensor:
    """`(items or frames, length, dim)`: what the tower gives for the probe."""
    tower, arguments = part.tower, _tower_arguments(part)
    was_training = tower.training
    try:
        with torch.no_grad():
            return run_tower(tower.eval(), arguments, part.row.get("select_layer"), part.row["select_feature"])[0]
    except Exception as error:
        shapes = {name: tuple(value.shape) for name, value in arguments.items()}
        raise ValueError(
            f"The tower of {part.name!r} ({type(tower).__name__}) cannot read what its processor "
            f"({type(part.processor).__name__}) gives, {shapes}: {error}"
        ) from error
    finally:
        tower.train(was_training)


def _check_batch(part: Part, features: torch.Tensor) -> None:
    """Raises ValueError unless the tower gives an item the same features again, beside another one."""
    item, rows = part.probe, len(next(iter(_tower_arguments(part).values())))
    main = next(iter(item))
    # A batch of the item and of one with the same numbers in another order.
    part.probe = {key: torch.cat([value, value.flip(-1) if key == main else value]) for key, value in item.items()}
    try:
        both = _features(part)
    finally:
        part.probe = item
    apart = (len(features), len(both)) == (rows, 2 * rows) and both.shape[1:] == features.shape[1:]
    close = 1e-3 if features.dtype == torch.float32 else 0.1
    if not apart or (both[:rows] - features).abs().max() > close * features.abs().max():
        cause = "it draws them at random" if apart else "it does not keep items apart"
        raise ValueError(
            f"The tower of {part.name!r} ({type(part.tower).__name__}) gives an item other features beside another one, "
            f"of shapes {tuple(features.shape)} and {tuple(both.shape)}: {cause}."
        )


def _check_length(part: Part, outputs: list[dict[str, torch.Tensor]]) -> None:
    """Raises ValueError unless the number of features of a short and a long item can be told without data."""
    item, kind, lengths, counted = part.probe, type(part.tower).__name__, [], []
    try:
        for output in outputs:
            part.probe = {key: output[key] for key in part.arguments}
            lengths.append(_features(part).shape[1])
            counted.append(feature_length(part.tower.config, output))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"The tower of {part.name!r} ({kind}) gives each item another number of features, and how many cannot be told "
            f"without running it: {error}"
        ) from error
    finally:
        part.probe = item
    if lengths != counted or lengths[0] == lengths[1]:
        raise ValueError(
            f"The tower of {part.name!r} ({kind}) gives {lengths} features for a short and a long item, where {counted} "
            "were counted: its config does not tell their width."
        )


def drop_unread_weights(parts: list[Part]) -> None:
    """Takes out of each tower what no modality reads, if the features are then really the same; freezes the rest of it."""
    for owner in (part for part in parts if part.row["tower"] == part.name):
        tower, was_training = owner.tower, owner.tower.training
        readers = [part for part in parts if part.row["tower"] == owner.name]
        readings = [(_tower_arguments(p), p.row.get("select_layer"), p.row["select_feature"]) for p in readers]
        names = unread_weights(tower.eval(), readings)
        tower.train(was_training)
        without = (
            names if _same_without(names, tower, readers) else [n for n in names if _same_without([n], tower, readers)]
        )
        if not _same_without(without, tower, readers):
            without = []
        kept = [name for name in names if name not in without]
        frozen = [key for key, _ in tower.named_parameters() for name in kept if f"{key}.".startswith(f"{name}.")]
        owner.row["unread"] = sorted({*without, *frozen})
        drop_unread(tower, owner.row["unread"])


def _same_without(names: list[str], tower: PreTrainedModel, readers: list[Part]) -> bool:
    """Whether features stay the same without these modules."""
    before = [_features(part) for part in readers] if names else []
    taken = drop_unread(tower, names)
    try:
        return all(torch.equal(_features(part), old) for part, old in zip(readers, before, strict=bool(names)))
    except ValueError:
        return False
    finally:
        put_back(tower, taken)


@torch.no_grad()
def _check_aligner(part: Part, hidden: int) -> None:
    """Raises ValueError if the aligner does not fit, or gives another number of tokens than it counts."""
    config, name, count = part.aligner.config, part.name, part.settings.get("num_tokens")
    if (config.feature_size, config.hidden_size) != (part.settings["feature_size"], hidden):
        raise ValueError(
            f"The aligner of {name!r} goes from width {config.feature_size} to {config.hidden_size}; its tower and "
            f"the language model have {part.settings['feature_size']} and {hidden}."
        )
    if count not in (None, config.num_tokens):
        raise ValueError(
            f"num_tokens={count} is set for {name!r}, but the aligner of {part.row['aligner']!r} has its own: "
            f"{config.num_tokens}. Set it there."
        )
    if config.sum_neighbours and config.num_tokens not in (None, 1):
        raise ValueError(
            f"The aligner of {name!r} adds neighbouring media into one token, but gives {config.num_tokens}."
        )
    parameter, was_training = next(part.aligner.parameters()), part.aligner.training
    shape = (
        1,
        part.row["num_frames"],
        part.row["feature_length"] or part.settings["probed_length"],
        config.feature_size,
    )
    counted = config.count_tokens(*shape[1:3])
    zeros = parameter.new_zeros
    table = {"token_embeddings": zeros(2, hidden)} if part.aligner.reads_token_embeddings else {}
    try:
        output = part.aligner.eval()(zeros(shape), **table)
        given = (output[0] if isinstance(output, tuple) else output).shape[1]
    except Exception as error:
        raise ValueError(f"The aligner of {name!r} cannot read features of shape {shape[1:]}: {error}") from error
    finally:
        part.aligner.train(was_training)
    if given != counted:
        raise ValueError(
            f"The aligner of {name!r} gives {given} tokens for features of shape {shape[1:]}, but counts {counted}."
        )
