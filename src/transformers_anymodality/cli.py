"""The `anymodality` command."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence

from .conversion import CONVERSIONS, Report, convert


_CONVERT = """\
Writes a released checkpoint as one that Transformers' Auto classes load.

  anymodality convert pandagpt --from release/ --output panda/
  anymodality convert x_llm --from release/ --output panda/ --language-model THUDM/chatglm-6b

The folder holds the files as they were released; --help on a system's name is not needed, a missing file is named.
Tensors are streamed: memory holds one shard. Every tensor of the release is used or listed with the reason why not,
every parameter is filled or nothing is written. Recordings (inputs.safetensors, outputs.safetensors) beside the release
are compared with what the converted model gives.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="anymodality", description="Language models with any senses.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_data(commands)
    _add_features(commands)
    chosen = parser.parse_args(arguments)
    try:
        return chosen.run(chosen)
    except (ValueError, OSError, ImportError) as error:
        print(f"anymodality {chosen.command}: {error}", file=sys.stderr)
        return 1


def _add_data(commands) -> None:
    from .data._commands import add_commands

    add_commands(commands)


def _add_features(commands) -> None:
    from .features._commands import add_commands

    add_commands(commands)


def _add_convert(commands) -> None:
    systems = "\n".join(f"  {name:<12} {CONVERSIONS[name].help}" for name in CONVERSIONS)
    parser = commands.add_parser(
        "convert",
        help="a released checkpoint to one that the Auto classes load",
        description=f"{_CONVERT}\nsystems:\n{systems}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("system", choices=list(CONVERSIONS), metavar="SYSTEM", help="which of the above")
    parser.add_argument("--from", dest="source", required=True, metavar="DIR", help="the released files")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the checkpoint goes; must not exist")
    parser.add_argument(
        "--language-model", metavar="ID_OR_DIR", help="instead of the release's own (the width must be the same)"
    )
    parser.add_argument("--tokenizer", metavar="ID_OR_DIR", help="where none lies beside the release")
    parser.add_argument("--light", action="store_true", help="refer to --language-model instead of storing it")
    parser.add_argument("--merge", action="store_true", help="merge LoRA weights; else they become an adapter beside")
    parser.add_argument("--faithful", action="store_true", help="reproduce the release's known bugs, too")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of all weights; default: as released"
    )
    parser.add_argument("--max-shard-size", type=float, default=1.0, metavar="GB", help="per file; default: 1")
    parser.set_defaults(run=_convert)


def _convert(chosen: argparse.Namespace) -> int:
    report = convert(
        chosen.system,
        chosen.source,
        chosen.output,
        light=chosen.light,
        dtype=chosen.dtype,
        max_shard_size=int(chosen.max_shard_size * 10**9),
        language_model=chosen.language_model,
        tokenizer=chosen.tokenizer,
        merge=chosen.merge,
        faithful=chosen.faithful,
    )
    print(describe(report))
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
