"""What a conversion did, and how exact it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ._recordings import Comparison


@dataclass
class Report:
    """What a conversion did: tensors used, tensors not used with the reason, and how recordings compare."""

    system: str
    output: Path
    parameters: int = 0
    used: int = 0
    unused: dict[str, str] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
