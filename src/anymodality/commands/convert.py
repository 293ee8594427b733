"""`anymodality convert`."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anymodality.commands._base import ListingCommand


if TYPE_CHECKING:
    from transformers_anymodality.conversion import Report


class CLASS(ListingCommand):
    def listing(self) -> str:
        from transformers_anymodality.conversion import CONVERSIONS

        return "systems:\n" + "\n".join(f"  {name:<12} {CONVERSIONS[name].help}" for name in CONVERSIONS)


def convert(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="Which of those below.", show_default=False)],
    source: Annotated[str, typer.Option("--from", metavar="DIR", help="The released files.")],
    output: Annotated[str, typer.Option(metavar="DIR", help="Where the checkpoint goes; must not exist.")],
    language_model: Annotated[
        str | None,
        typer.Option(metavar="ID_OR_DIR", help="Instead of the release's own (the width must be the same)."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="ID_OR_DIR", help="Where none lies beside the release.")
    ] = None,
    light: Annotated[bool, typer.Option("--light", help="Refer to --language-model instead of storing it.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge LoRA weights; else they become an adapter beside.")
    ] = False,
    faithful: Annotated[bool, typer.Option("--faithful", help="Reproduce the release's known bugs, too.")] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Of all weights; default: as released.")
    ] = None,
    max_shard_size: Annotated[float, typer.Option(metavar="GB", help="Per file.")] = 1.0,
) -> None:
    """Write a released checkpoint as one that the Auto classes load.

    \b
      anymodality convert pandagpt --from release/ --output panda/
      anymodality convert x_llm --from release/ --output x_llm/ --language-model THUDM/chatglm-6b

    The folder holds the files as they were released; a missing one is named. Tensors are streamed: memory holds one
    shard. Every tensor of the release is used or listed with the reason why not, every parameter is filled or nothing
    is written. Recordings (inputs.safetensors, outputs.safetensors) beside the release are compared with what the
    converted model gives.
    """
    from transformers_anymodality import conversion

    if system not in conversion.CONVERSIONS:
        raise typer.BadParameter(f"{system!r} is none of {', '.join(conversion.CONVERSIONS)}.", param_hint="SYSTEM")
    report = conversion.convert(
        system,
        source,
        output,
        light=light,
        dtype=dtype,
        max_shard_size=int(max_shard_size * 10**9),
        language_model=language_model,
        tokenizer=tokenizer,
        merge=merge,
        faithful=faithful,
    )
    print(describe(report))


def describe(report: Report) -> str:
    """What a conversion did, for people."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in report.unused.items():
        reasons[reason].append(name)
    lines = [f"{report.output}: {report.parameters:,} parameters from {report.used:,} tensors of {report.system}."]
    if reasons:
        lines.append(f"{len(report.unused):,} tensors were not used:")
        lines += [
            f"  {len(names):>5}  {names[0]}{', ...' if names[1:] else ''}: {why}" for why, names in reasons.items()
        ]
    if report.comparisons:
        lines.append("against the original:")
        width = max(len(comparison.name) for comparison in report.comparisons)
        for comparison in report.comparisons:
            if comparison.largest is None:
                found = f"not compared: {comparison.reason or 'no reason given'}"
            else:
                same = "" if comparison.argmax is None else f", argmax the same in {comparison.argmax:.1%}"
                found = f"{comparison.largest:.1e}{same}"
            lines.append(f"  {comparison.name:<{width}}  {found}")
    return "\n".join([*lines, *report.notes])
