"""Loading that never fills a gap with random weights: what does not fit the checkpoint is an error."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


class CheckedLoadingMixin:
    """`from_pretrained` of a `PreTrainedModel` that raises where the stock one would warn."""

    @classmethod
    def from_pretrained(cls, source, *args, output_loading_info: bool = False, **kwargs):
        """As `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: the checkpoint lacks weights, has some that the model has not, or some of another shape
                (the last unless `ignore_mismatched_sizes=True`).
        """
        model, info = super().from_pretrained(
            source, *args, output_loading_info=True, **cls._loading_kwargs(source, kwargs)
        )
        check_loading_info(model, info, kwargs.get("ignore_mismatched_sizes", False), source)
        return (model, info) if output_loading_info else model

    @classmethod
    def _loading_kwargs(cls, source: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What `from_pretrained` is called with in the end."""
        return kwargs


def check_loading_info(model: PreTrainedModel, info: dict[str, Any], mismatch_allowed: bool, source: Any) -> None:
    problems = {
        "missing from the checkpoint": info["missing_keys"],
        "in the checkpoint, but not in the model": info["unexpected_keys"],
        "of another shape": () if mismatch_allowed else info["mismatched_keys"],
    }
    found = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys]
    if mismatch_allowed and info["mismatched_keys"]:
        found = found[1:] if info["missing_keys"] <= {key[0] for key in info["mismatched_keys"]} else found
    if found:
        raise ValueError(
            f"The weights in {source} do not fit {type(model).__name__}; " + "; ".join(found) + ". Nothing is filled "
            "with random weights: check that config and weights come from the same model."
        )


def _some(keys, limit: int = 5) -> str:
    names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
