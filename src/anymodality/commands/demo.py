"""`anymodality demo`."""

import signal
from pathlib import Path
from typing import Annotated

from anymodality.commands import _options as options
from anymodality.commands._base import load_model, load_processor, name_of
from anymodality.commands._options import option


def demo(
    source: options.Source,
    host: Annotated[str | None, option("ADDRESS", "Address to listen on; default: this machine alone.")] = None,
    port: Annotated[int | None, option("N", "Port; default: the first free one from 7860.", min=1, max=65535)] = None,
    name: Annotated[str | None, option("NAME", "Name on the page; default: the folder's name or the Hub id.")] = None,
    examples: Annotated[
        Path | None, option("FILE", "JSONL of chats to offer the first messages of; default: dummy inputs.")
    ] = None,
    export: Annotated[
        Path | None, option("FOLDER", "Write a Space that runs the page, instead of running it.")
    ] = None,
    system_prompt: options.SystemPrompt = None,
    max_megabytes: Annotated[int, option("N", "Most megabytes of a file, also decoded.", min=1)] = 64,
    max_pixels: options.MaxPixels = 25_000_000,
    max_seconds: options.MaxSeconds = 120.0,
    max_media: Annotated[int, option("N", "Most media in one message.", min=1)] = 8,
    max_new_tokens: Annotated[int, option("N", "Most tokens of an answer.", min=1)] = 1024,
    dtype: options.DType = "auto",
    device: options.Device = None,
    module: options.Import = None,
) -> None:
    """Chat in the browser, with media of every modality that the model reads.

    \b
      anymodality demo my-anymal
      anymodality demo my-anymal --examples chats.jsonl --port 7861
      anymodality demo org/anymal --export space/ && hf upload --repo-type space org/anymal-demo space/

    A chat is {"messages": [...]} as data sets have it; /save in `anymodality chat` writes such files. Each visitor has
    a conversation of their own; answers come one after another. Nothing is loaded from the web, and no file but what
    visitors upload can be read.
    """
    from transformers_anymodality.utils.imports import require

    require("gradio", "demo")
    from transformers_anymodality.inference.demo import Policy, build_page, export_space, launch
    from transformers_anymodality.modalities import Limits

    if export is not None:
        for file in export_space(source, export, system_prompt=system_prompt, examples=examples, module=module):
            print(file)
        return
    most = {"max_frames": Policy.limits.max_frames, "max_total_pixels": Policy.limits.max_total_pixels}
    limits = Limits(max_megabytes * 1024**2, max_pixels, max_seconds, **most)
    processor = load_processor(source)
    page = build_page(
        load_model(source, dtype, device),
        processor,
        name or name_of(source),
        system_prompt=system_prompt,
        examples=examples,
        policy=Policy(limits, max_media, max_new_tokens),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: uploads are deleted at the end
    launch(page, host, port, max_megabytes)
