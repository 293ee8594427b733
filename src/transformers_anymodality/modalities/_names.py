"""Which names a modality can have."""

from __future__ import annotations

import re


# Names that would shadow what Transformers looks for in a config or model.
_RESERVED = {
    "text",
    "decoder",
    "generator",
    "encoder",
    "language",
    "language_model",
    "backbone",
    "quantization",
    "generation",
}


def check_modality_name(name: str) -> None:
    """Raises ValueError for a name that cannot be a modality's."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name.endswith(("_aligner", "_tower", "_config")):
        raise ValueError(
            f"Modality name {name!r} must be lower-case letters, digits and underscores, and not end in _aligner, "
            "_tower or _config."
        )
    if name in _RESERVED:
        raise ValueError(
            f"Modality name {name!r} is reserved by Transformers; choose another, such as {name + '_in'!r}."
        )
