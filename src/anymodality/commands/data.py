"""`anymodality data convert | check | show`."""

import os
import sys
from typing import Annotated

import typer

from anymodality.commands._base import Command, group, load_processor, tell
from anymodality.commands._options import Import, MediaRoot, Workers, argument, listing, option


app = group("Convert, check and look at training data.")

File = Annotated[str, argument("FILE", "File of training data.")]
Processor = Annotated[str, option("ID_OR_DIR", "Model that will be trained on it.")]


def _formats() -> str:
    from transformers_anymodality.data import FORMATS

    return "\n".join(f"{name:<12} {FORMATS[name].help}" for name in FORMATS)


@app.command(cls=Command)
def convert(
    format: Annotated[str, argument("FORMAT", "Name of a format; see --list.")],
    source: Annotated[str, option("FILE", "File to read, JSON or JSONL.", "--from")],
    output: Annotated[str, option("FILE", "JSONL file to write; must not exist.")],
    media_root: Annotated[str | None, option("DIR", "Folder to put before relative paths.")] = None,
    names: Annotated[bool, listing(_formats, "List the formats, and exit.")] = False,
) -> None:
    """Convert data of a published format into JSONL of chats.

    Each line has `messages`, with a part {"type": "image"} in place of an image,
    and columns `images`, `videos`, `audio`, ... with the paths.

    Example:
      anymodality data convert llava --from llava.json --output train.jsonl
    """
    from transformers_anymodality.data import FORMATS, convert_file
    from transformers_anymodality.data.formats import missing_files

    if format not in FORMATS:
        raise typer.BadParameter(f"{format!r} is not one of {', '.join(FORMATS)}.", param_hint="FORMAT")
    count = convert_file(format, source, output, media_root=media_root, progress=True)
    tell(f"{output}: {count:,} chats.")
    files, missing = missing_files(output)
    if missing:
        tell(
            f"{len(missing):,} of their {files:,} files are not there, the first: {missing[0]}. Relative paths begin in "
            "--media-root, or here."
        )


@app.command("check", cls=Command)
def check_file(
    file: File,
    processor: Processor,
    media_root: MediaRoot = None,
    max_length: Annotated[int | None, option("N", "Maximum tokens per sample, with media.")] = None,
    workers: Workers = 0,
    report: Annotated[str | None, option("FILE", "JSONL file for the problems, one per line.")] = None,
    module: Import = None,
) -> None:
    """Check a file of training data.

    Reads every sample and all media as training does, and reports what would fail:
    missing files, media that cannot be read or do not match their placeholders,
    samples that are too long or have no assistant text. The file is JSON, JSONL,
    Parquet or WebDataset shards (.tar). The exit status is 1 if anything is wrong.

    Example:
      anymodality data check train.jsonl --processor my-model --max-length 2048
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
    tell(f"{file}: {found}")
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
    html: Annotated[str | None, option("FILE", "HTML page to write, with the media.")] = None,
    module: Import = None,
) -> None:
    """Show a sample as the model gets it; with --html, also its media.

    Trained tokens are green, or between ⟦ and ⟧ without colours.

    Example:
      anymodality data show train.jsonl --processor my-model --html sample.html
    """
    from transformers_anymodality.data.datasets import open_records
    from transformers_anymodality.data.showing import as_text, look, write_page

    reads, records = load_processor(processor), open_records(file)
    if beyond := [place for place in index if not 0 <= place < len(records)]:
        raise ValueError(f"{file} has {len(records)} samples, so there is no index {beyond[0]}.")
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    shown = [look(records[place], reads, index=place, media_root=media_root) for place in index]
    print("\n\n".join(as_text(one, colour) for one in shown))
    if html:
        write_page(html, shown, reads, title=os.path.basename(file))
        tell(f"\n{html}: page with the media.")
