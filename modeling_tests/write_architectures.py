"""Writes `docs/architectures.md`: `python -m modeling_tests.write_architectures`.

What works is what `test_any_language_model` and `test_any_tower` prove, and what does not is in their tables; only how
each tower gives its features is looked up here, by running it.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from modeling_tests import language_model_cases as languages
from modeling_tests import tower_cases as towers
from modeling_tests.tiny_causal_lms import NOT_TEXT_DECODERS, causal_lm_types
from modeling_tests.tiny_tower_types import KINDS, NOT_ENCODERS
from modeling_tests.tiny_towers import TIMM_FAMILIES
from transformers_anymodality.towers import run_tower


PATH = Path(__file__).parents[1] / "docs" / "architectures.md"

INTRODUCTION = """\
# Architectures

Every text decoder that `AutoModelForCausalLM` of Transformers {version} builds was composed with media. Every encoder of
images, video, audio and series that `AutoModel` builds, and one of each family of timm, was used as a tower. All are tiny,
with random weights. `modeling_tests/test_any_language_model.py` and `test_any_tower.py` prove the tables, including the
failures. `python -m modeling_tests.write_architectures` writes this page.

| | tried | pass everything | fail some checks | refused by `compose` |
|---|---|---|---|---|
{totals}
"""

LANGUAGE_CHECKS = """\
Checked: media reach the logits; the loss is the cross-entropy of the shifted labels; its gradient reaches the aligner;
greedy generation is the same with and without a cache (generation), and next to a longer row as alone (padding); a
checkpoint is restored exactly; the plan without weights is the same composite (plan); LoRA on all linear layers is trained,
saved and loaded; the vocabulary grows by the placeholder (growth).

{padding} fail only on padding, also without media: train them with padding on the right, as the collator does,
and generate row by row."""

TOWER_CHECKS = """\
Checked: features are those of the full tower, although unread modules are dropped; tokens are the same next to a longer
medium as alone (batch); a frozen tower keeps no graph, a trained one gets a gradient in all its weights; a checkpoint is
restored exactly; the plan without weights is the same composite (plan); `select_layer=-2` equals the full tower's
`hidden_states[-2]` (layer)."""


def status(name: str, refused: dict[str, str], known: dict[str, dict[str, str]]) -> str:
    if name in refused:
        return f"refused: {refused[name]}"
    return "; ".join(f"{check}: {reason}" for check, reason in known.get(name, {}).items()) or "ok"


def table(header: str, rows: list[tuple[str, ...]]) -> str:
    columns = header.count("|") - 1
    return "\n".join([header, "|---" * columns + "|", *(f"| {' | '.join(row)} |" for row in rows)])


def totals(title: str, names: list[str], refused: dict[str, str], known: dict[str, dict[str, str]]) -> str:
    no, some = sum(name in refused for name in names), sum(name in known for name in names)
    return f"| {title} | {len(names)} | {len(names) - no - some} | {some} | {no} |"


def language_models() -> str:
    rows = [(f"`{name}`", status(name, languages.REFUSED, languages.KNOWN)) for name in sorted(causal_lm_types())]
    others = [(f"`{name}`", reason) for name, reason in sorted(NOT_TEXT_DECODERS.items()) if name != "anymodality"]
    checks = LANGUAGE_CHECKS.format(padding=sum(known.keys() == {"padding"} for known in languages.KNOWN.values()))
    return "\n\n".join(
        [
            f"## Language models\n\n{checks}",
            table("| model type | result |", rows),
            "In the same mapping, but not separate text decoders:",
            table("| model type | why not |", others),
        ]
    )


def tower_names() -> list[str]:
    return [name for name in towers.NAMES if name != "dinat"]  # built on a library that few have


def layout(name: str) -> str:
    """In which of the tower's outputs its features are, and in which form."""
    case = towers.Case(name, *towers.config_of(name))
    case.compose()
    with torch.no_grad():
        features, output = run_tower(case.whole, case.arguments(case.inputs), *case.reading)
    values = {k: v[-1] if isinstance(v, (list, tuple)) and v else v for k, v in output.items()}
    # The largest of those outputs that hold the same numbers as the features.
    field = next(key for key, value in values.items() if isinstance(value, torch.Tensor) and same(value, features))
    if case.row.packed:
        return f"all items as one row (`{field}`)"
    shape = values[field].shape
    form = {2: "vector", 3: "sequence", 4: "sequence per channel" if case.kind == "series" else "map"}[len(shape)]
    first = shape[1] == features.shape[-1] != shape[-1]
    return f"{form}{', channels first' if first else ''} (`{field}`)"


def same(value: torch.Tensor, features: torch.Tensor) -> bool:
    return value.numel() == features.numel() and torch.equal(value.flatten().sort()[0], features.flatten().sort()[0])


def tower_tables(describe: Callable[[str], str] = layout) -> str:
    kinds = {**KINDS, **dict.fromkeys(TIMM_FAMILIES, "image (timm)"), **dict.fromkeys(towers.TEXT_TOWERS, "text")}
    rows = []
    for name in sorted(tower_names(), key=lambda name: (kinds[name], name)):
        read = name not in towers.REFUSED
        layers = "" if not read else "no" if name in towers.NO_LAYERS else "yes"
        result = status(name, towers.REFUSED, towers.KNOWN)
        rows.append((f"`{name}`", kinds[name], describe(name) if read else "", layers, result))
    others = [(f"`{name}`", reason) for name, reason in sorted(NOT_ENCODERS.items())]
    return "\n\n".join(
        [
            f"## Towers\n\n{TOWER_CHECKS}",
            table("| tower | reads | features | `select_layer` | result |", rows),
            "Other models with media as their input, which are not encoders:",
            table("| model type | why not |", others),
        ]
    )


def main() -> None:
    towers.register_document()
    rows = [
        totals("language models", causal_lm_types(), languages.REFUSED, languages.KNOWN),
        totals("towers", tower_names(), towers.REFUSED, towers.KNOWN),
    ]
    introduction = INTRODUCTION.format(version=transformers.__version__, totals="\n".join(rows))
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text("\n".join([introduction, language_models(), "", tower_tables(), ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
