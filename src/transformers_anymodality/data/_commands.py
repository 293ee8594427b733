"""`anymodality data convert | check | show`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any

from .formats import FORMATS


_CONVERT = """\
Writes data of a published format as JSONL of chats: `messages`, whose parts {"type": "image"} are the places of media,
and columns `images`, `videos`, `audio`, ... with their paths.

  anymodality data convert llava --from llava_instruct_150k.json --output train.jsonl --media-root coco/train2017
"""
_CHECK = """\
Reads every sample and every medium of a file as training would, and tells what would go wrong: missing files, media and
placeholders that differ in number, media that cannot be read, samples that are too long or have nothing to learn from.
The exit status is 1 if anything is wrong.

  anymodality data check train.jsonl --processor my-anymal --max-length 2048 --workers 8 --report wrong.jsonl

The file is JSON, JSONL, Parquet, or WebDataset shards (.tar), of `messages` or `conversations`.
"""
_SHOW = """\
Prints a sample as the model gets it, with the tokens that are learned in green (between ⟦ and ⟧ where there are no
colours), and writes a page with its media.

  anymodality data show train.jsonl --processor my-anymal --index 3 --html sample.html
"""


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("data", help="convert, check and look at training data")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_convert(actions)
    check = _add(actions, "check", "find what is wrong with a file before training does", _CHECK)
    check.add_argument("--max-length", type=int, metavar="N", help="tokens per sample, media included")
    check.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read; default: 0, this one")
    check.add_argument("--report", metavar="FILE", help="write every problem, one JSON object per line")
    check.set_defaults(run=_check)
    show = _add(actions, "show", "print a sample with its labels, and its media as a page", _SHOW)
    show.add_argument("--index", type=int, nargs="+", default=[0], metavar="N", help="which, from 0; default: 0")
    show.add_argument("--html", metavar="FILE", help="write a page with the media in it")
    show.set_defaults(run=_show)


def _add_convert(actions: Any) -> None:
    formats = "\n".join(f"  {name:<12} {FORMATS[name].help}" for name in FORMATS)
    parser = actions.add_parser(
        "convert",
        help="a published format to chats",
        description=f"{_CONVERT}\nformats:\n{formats}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("format", choices=list(FORMATS), metavar="FORMAT", help="which of the above")
    parser.add_argument("--from", dest="source", required=True, metavar="FILE", help="JSON or JSONL")
    parser.add_argument("--output", required=True, metavar="FILE", help="JSONL; must not exist")
    parser.add_argument("--media-root", metavar="DIR", help="put in front of relative paths")
    parser.set_defaults(run=_convert)


def _add(actions: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = actions.add_parser(name, help=help, description=description, formatter_class=formatter)
    parser.add_argument("file", metavar="FILE", help="the data")
    parser.add_argument("--processor", required=True, metavar="ID_OR_DIR", help="the model that is to learn from it")
    parser.add_argument("--media-root", metavar="DIR", help="folder that relative paths are in; default: here")
    parser.add_argument(
        "--import", dest="module", metavar="MODULE", help="module that registers modalities of your own"
    )
    return parser


def _convert(chosen: argparse.Namespace) -> int:
    from .formats import convert_file

    count = convert_file(chosen.format, chosen.source, chosen.output, media_root=chosen.media_root, progress=True)
    print(f"{chosen.output}: {count:,} chats.")
    return 0


def _check(chosen: argparse.Namespace) -> int:
    from .checking import check

    report = check(
        chosen.file,
        _processor(chosen),
        max_length=chosen.max_length,
        media_root=chosen.media_root,
        workers=chosen.workers,
        progress=True,
    )
    print(f"{chosen.file}: {report}")
    if chosen.report:
        report.write(chosen.report)
    return 1 if report.problems or not report.samples else 0


def _show(chosen: argparse.Namespace) -> int:
    from ._files import open_records
    from ._page import write_page
    from .showing import as_text, look

    processor, records = _processor(chosen), open_records(chosen.file)
    if beyond := [index for index in chosen.index if not 0 <= index < len(records)]:
        raise ValueError(f"{chosen.file} has {len(records)} samples, so none of index {beyond[0]}.")
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    shown = [look(records[index], processor, index=index, media_root=chosen.media_root) for index in chosen.index]
    print("\n\n".join(as_text(one, colour) for one in shown))
    if chosen.html:
        write_page(chosen.html, shown, processor, title=os.path.basename(chosen.file))
        print(f"\n{chosen.html}: the media, too.")
    return 0


def _processor(chosen: argparse.Namespace) -> Any:
    from transformers import AutoProcessor

    if chosen.module:
        sys.path.insert(0, os.getcwd())
        importlib.import_module(chosen.module)
    processor = AutoProcessor.from_pretrained(chosen.processor)
    if not hasattr(processor, "encode_chat"):
        raise ValueError(f"{chosen.processor} is no any-modality model, but has a {type(processor).__name__}.")
    return processor
