"""`anymodality demo`."""

import signal
from typing import Annotated

from anymodality.commands import _options as options
from anymodality.commands._base import load_model, load_processor, name_of, within
from anymodality.commands._options import option


def demo(
    source: options.Source,
    host: Annotated[str | None, option("ADDRESS", "Address to listen on; default: only this machine.")] = None,
    port: Annotated[int | None, option("N", "Port; default: first free one from 7860.", min=1, max=65535)] = None,
    name: Annotated[str | None, option("NAME", "Title of the page; default: folder name or Hub id.")] = None,
    examples: options.Examples = None,
    system_prompt: options.SystemPrompt = None,
    maxima: options.Max = None,
    dtype: options.DType = "auto",
    device: options.Device = None,
    module: options.Import = None,
) -> None:
    """Chat in the browser, with media of every modality of the model.

    Examples are chats, {"messages": [...]}; /save in `anymodality chat` writes
    such files. The page loads nothing from the web.

    Limits are megabytes=64, pixels=25e6 and seconds=120 of a file, frames=4000 of a
    video, media=8 in a message, new_tokens=1024 of an answer.

    Example:
      anymodality demo my-model --examples chats.jsonl --max seconds=30
    """
    from transformers_anymodality.utils.imports import require

    require("gradio", "demo")
    from transformers_anymodality.inference.demo import Policy, build_page, launch

    policy = within(Policy(), maxima)
    processor = load_processor(source)
    page = build_page(
        load_model(source, dtype, device),
        processor,
        name or name_of(source),
        system_prompt=system_prompt,
        examples=examples,
        policy=policy,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: uploads are deleted at the end
    launch(page, host, port, max(1, policy.limits.max_bytes // 1024**2))
