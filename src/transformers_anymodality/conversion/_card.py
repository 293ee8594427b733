"""The card of a converted checkpoint: what it is, how it is loaded, what was not used, how exact it is, its licence."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ._base import Plan
    from ._convert import Report


_COMPOSITE = """\
import transformers_anymodality  # registers everything with the Auto classes
from transformers import AutoModelForCausalLM, AutoProcessor

model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto", device_map="auto")
processor = AutoProcessor.from_pretrained("{name}")
"""
_ADAPTER = """\
model.load_adapter("{name}/adapter")  # the release's LoRA weights
"""
_TOWER = """\
import transformers_anymodality  # registers everything with the Auto classes
from transformers import AutoModel

model = AutoModel.from_pretrained("{name}")
"""


def write_card(folder: Path, report: Report, plan: Plan) -> None:
    name = report.output.name
    code = _TOWER if plan.compose is None else _COMPOSITE + (_ADAPTER if plan.adapter is not None else "")
    lines = [
        "---",
        f"license: {plan.licence}",
        "library_name: transformers",
        f"tags: [anymodality, {report.system}]",
        *([] if plan.compose is None else ["pipeline_tag: any-to-any"]),
        "---",
        "",
        f"# {name}",
        "",
        f"Converted from the release of {report.system} by `anymodality convert {report.system}`: "
        f"{report.parameters:,} parameters from {report.used:,} tensors. The weights keep their licence.",
        "",
        f"```python\n{code.format(name=name)}```",
        "",
        *[f"- {note}" for note in report.notes],
        *_unused(report),
        *_exactness(report),
    ]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n")


def _unused(report: Report) -> list[str]:
    if not report.unused:
        return []
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in report.unused.items():
        reasons[reason].append(name)
    rows = [f"| {len(names)} | `{names[0]}`{', ...' if names[1:] else ''} | {why} |" for why, names in reasons.items()]
    return ["", "## Tensors of the release that are not used", "", "| tensors | | why |", "|---|---|---|", *rows]


def _exactness(report: Report) -> list[str]:
    if not report.comparisons:
        return []
    rows = [
        f"| `{c.name}` | not compared: {c.reason or 'no reason given'} | |"
        if c.largest is None
        else f"| `{c.name}` | {c.largest:.1e} | {'' if c.argmax is None else f'{c.argmax:.0%}'} |"
        for c in report.comparisons
    ]
    head = ["", "## Against the original", "", "| recorded | largest difference | same argmax |", "|---|---|---|"]
    return [*head, *rows]
