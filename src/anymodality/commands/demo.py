"""`anymodality demo`."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from anymodality.commands import _options as options
from anymodality.commands._base import load_model, load_processor, name_of
from anymodality.commands._options import option


def demo(
    source: options.Source,
    host: Annotated[str | None, option("ADDRESS", "Address to listen on; default: only this machine.")] = None,
    port: Annotated[int | None, option("N", "Port; default: first free one from 7860.", min=1, max=65535)] = None,
    name: Annotated[str | None, option("NAME", "Title of the page; default: folder name or Hub id.")] = None,
    examples: Annotated[
        Path | None,
        option("FILE", "JSONL file of chats, whose first messages become examples; default: dummy inputs."),
    ] = None,
    export: Annotated[
        Path | None, option("FOLDER", "Folder for a Space that runs the page; nothing is started.")
    ] = None,
    system_prompt: options.SystemPrompt = None,
    max_megabytes: Annotated[int, option("N", "Maximum size of a file in MB, also decoded.", min=1)] = 64,
    max_pixels: options.MaxPixels = 25_000_000,
    max_seconds: options.MaxSeconds = 120.0,
    max_media: Annotated[int, option("N", "Maximum number of media in one message.", min=1)] = 8,
    max_new_tokens: Annotated[int, option("N", "Maximum number of tokens in an answer.", min=1)] = 1024,
    dtype: options.DType = "auto",
    device: options.Device = None,
    module: options.Import = None,
) -> None:
    """Chat in the browser, with media of every modality of the model.

    \b
      anymodality demo my-model
      anymodality demo my-model --examples chats.jsonl --port 7861
      anymodality demo my-name/my-model --export space/ && hf upload --repo-type space my-name/my-demo space/

    Examples are chats, {"messages": [...]}; /save in `anymodality chat` writes such files. Each visitor has their own
    conversation; answers come one after another. The page loads nothing from the web, and reads only uploaded files.
    """
    from transformers_anymodality.utils.imports import require

    require("gradio", "demo")
    from transformers_anymodality.inference.demo import Policy, build_page, export_space, launch
    from transformers_anymodality.modalities import UPLOAD_LIMITS

    if export is not None:
        for file in export_space(source, export, system_prompt=system_prompt, examples=examples, module=module):
            print(file)
        return
    most = {"max_bytes": max_megabytes * 1024**2, "max_pixels": max_pixels, "max_seconds": max_seconds}
    limits = replace(UPLOAD_LIMITS, **most)
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
