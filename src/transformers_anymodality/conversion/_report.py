"""What a conversion did: for people who ran it, and for those who read the checkpoint's card."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from ..hub import Licences, write_card


@dataclass
class Report:
    """What a conversion did; `str()` of it is for people.

    Args:
        system: name of the conversion.
        output: folder of the checkpoint.
        parameters: numbers in the checkpoint.
        used: how many tensors of the release are in it.
        unused: tensors of the release that are not, each with the reason.
        notes: what else its users should know.
    """

    system: str
    output: Path
    parameters: int = 0
    used: int = 0
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.output}: {self.parameters:,} parameters from {self.used:,} tensors of {self.system}."]
        if self.unused:
            lines.append(f"{len(self.unused):,} tensors were not used:")
            lines += [f"  {count:>5}  {name}{more}: {reason}" for count, name, more, reason in self._reasons()]
        return "\n".join([*lines, *self.notes])

    def write_card(self, folder: Path, licence: str) -> None:
        """The card of any checkpoint, with the tensors that were not used.

        Args:
            folder: of the checkpoint, where it is now.
            licence: of the weights; SPDX or Hugging Face's name for it.
        """
        rows = [f"| {count} | `{name}`{more} | {reason} |" for count, name, more, reason in self._reasons()]
        table = "\n".join(["| tensors | | why |", "|---|---|---|", *rows])
        write_card(
            folder,
            name=self.output.name,
            licences=Licences(licence, notes=["The weights keep the licence of the release."]),
            tags=[self.system],
            summary=f"Converted from the release of {self.system} by `anymodality convert {self.system}`: "
            f"{self.parameters:,} parameters from {self.used:,} tensors.",
            sections={"Tensors of the release that are not used": table} if rows else {},
            limits=self.notes,
            origin="the release",
        )

    def _reasons(self) -> list[tuple[int, str, str, str]]:
        """Of the unused tensors, for each reason: how many, the first one's name, whether there are more, the reason."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.unused.items():
            reasons[reason].append(name)
        return [(len(names), names[0], ", ..." * (len(names) > 1), why) for why, names in reasons.items()]
