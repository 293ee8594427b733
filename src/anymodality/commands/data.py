"""`anymodality data convert | check | show`."""

import os
import sys
from typing import Annotated

import typer

from anymodality.commands._base import Command, ListingCommand, group, load_processor
from anymodality.commands._options import Import, MediaRoot, Workers, argument, option


app = group("Convert, check and look at training data.")

File = Annotated[str, argument("FILE", "The data.")]
Processor = Annotated[str, option("ID_OR_DIR", "The model that is to learn from it.")]


class ConvertCommand(ListingCommand):
    def listing(self) -> str:
        from transformers_anymodality.data import FORMATS

        return "formats:\n" + "\n".join(f"  {name:<12} {FORMATS[name].help}" for name in FORMATS)


@app.command(cls=ConvertCommand)
def convert(
    format: Annotated[str, argument("FORMAT", "One of those below.")],
    source: Annotated[str, option("FILE", "JSON or JSONL.", "--from")],
    output: Annotated[str, option("FILE", "JSONL; must not exist.")],
    media_root: Annotated[str | None, option("DIR", "Folder to put in front of relative paths.")] = None,
) -> None:
    """Write data of a published format as JSONL of chats.

    \b
      anymodality data convert llava --from llava_instruct_150k.json --output train.jsonl --media-root coco/train2017

    Chats are `messages`, whose parts {"type": "image"} are the places of media, and columns `images`, `videos`,
    `audio`, ... with their paths.
    """
    from transformers_anymodality.data import FORMATS, convert_file

    if format not in FORMATS:
        raise typer.BadParameter(f"{format!r} is not one of {', '.join(FORMATS)}.", param_hint="FORMAT")
    count = convert_file(format, source, output, media_root=media_root, progress=True)
    print(f"{output}: {count:,} chats.")


@app.command("check", cls=Command)
def check_file(
    file: File,
    processor: Processor,
    media_root: MediaRoot = None,
    max_length: Annotated[int | None, option("N", "Tokens per sample, media included.")] = None,
    workers: Workers = 0,
    report: Annotated[str | None, option("FILE", "File for every problem, one JSON object per line.")] = None,
    module: Import = None,
) -> None:
    """Find what is wrong with a file before training does.

    \b
      anymodality data check train.jsonl --processor my-anymal --max-length 2048 --workers 8 --report wrong.jsonl

    Reads every sample and every medium of a file as training would, and tells what would go wrong: missing files, media
    and placeholders that differ in number, media that cannot be read, samples that are too long or have nothing to
    learn from. The exit status is 1 if anything is wrong.

    The file is JSON, JSONL, Parquet, or WebDataset shards (.tar), of `messages` or `conversations`.
    """
    from transformers_anymodality.data import check

    found = check(
        file,
        load_processor(processor),
        max_length=max_length,
        media_root=media_root,
        workers=workers,
        progress=True,
    )
    print(f"{file}: {found}")
    if report:
        found.write(report)
    if found.problems or not found.samples:
        raise typer.Exit(1)


@app.command(cls=Command)
def show(
    file: File,
    processor: Processor,
    media_root: MediaRoot = None,
    index: Annotated[list[int], option("N", "Index of a sample, from 0; repeatable.")] = [0],  # noqa: B006
    html: Annotated[str | None, option("FILE", "HTML page to write, with the media in it.")] = None,
    module: Import = None,
) -> None:
    """Print a sample as the model gets it, and its media as a page.

    \b
      anymodality data show train.jsonl --processor my-anymal --index 3 --html sample.html

    Tokens that are learned are green (between ⟦ and ⟧ where there are no colours).
    """
    from transformers_anymodality.data.datasets import open_records
    from transformers_anymodality.data.showing import as_text, look, write_page

    reads, records = load_processor(processor), open_records(file)
    if beyond := [place for place in index if not 0 <= place < len(records)]:
        raise ValueError(f"{file} has {len(records)} samples, so none of index {beyond[0]}.")
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    shown = [look(records[place], reads, index=place, media_root=media_root) for place in index]
    print("\n\n".join(as_text(one, colour) for one in shown))
    if html:
        write_page(html, shown, reads, title=os.path.basename(file))
        print(f"\n{html}: the media, too.")
