"""Size limits of a stock image or video processor, under its own names."""

from typing import Any


# Options of modalities whose sub-processors have such limits.
PIXELS = {"max_tokens": None, "max_pixels": None, "min_pixels": None}
_EDGES = {"max_pixels": "longest_edge", "min_pixels": "shortest_edge"}
_OF_SIZE = ("longest_edge", "shortest_edge", "max_height")
# Tokens or patches, pixels, slices, or the side of a slice.
LIMITS = (
    *("max_soft_tokens", "max_image_tokens", "max_num_patches", "max_patches", "in_patch_limit"),
    *("longest_edge", "max_pixels", "max_slice_nums", "scale_resolution"),
)


def limit_of(processor: Any, name: str) -> int | None:
    """The number under this name in a processor or its `size`; None if there is none."""
    size = getattr(processor, "size", None)
    value = dict(size or {}).get(name) if name in _OF_SIZE else getattr(processor, name, None)
    return value if isinstance(value, int) else None


def with_limit(processor: Any, name: str, value: int) -> Any:
    """A processor like this one, with another limit."""
    given = processor.to_dict()
    if name in _OF_SIZE:
        size = {key: one for key, one in dict(given["size"]).items() if one is not None} | {name: value}
        if "shortest_edge" in size and name == "longest_edge":
            size["shortest_edge"] = min(size["shortest_edge"], value)
        given["size"] = size
    else:
        given[name] = value
    return type(processor).from_dict(given)


def with_pixels(processor: Any, options: dict[str, Any]) -> Any:
    """A processor with `max_pixels` and `min_pixels` of these options. Raises ValueError if it has no such limits."""
    for name, edge in _EDGES.items():
        if (value := options.get(name)) is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1.")
        edges = [limit_of(processor, one) for one in _EDGES.values()]
        if not hasattr(processor, "patch_size") or None in edges:
            raise ValueError(f"{name} is set, but {type(processor).__name__} has no pixel limits: leave it out.")
        processor = with_limit(processor, edge, value)
    return processor
