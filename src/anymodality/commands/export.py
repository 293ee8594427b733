"""`anymodality export gguf | space`."""

from pathlib import Path
from typing import Annotated, Literal

from anymodality.commands import _options as options
from anymodality.commands._base import Command, group, load_model, load_processor, tell
from anymodality.commands._options import option


app = group("Export a checkpoint for other programs.")


@app.command(cls=Command)
def gguf(
    source: options.Source,
    output: Annotated[str, option("DIR", "Folder to write; must not exist.")],
    dtype: Annotated[Literal["float16", "float32"], option(None, "Dtype of the matrices.")] = "float16",
    converter: Annotated[str | None, option("FILE", "Path of llama.cpp's convert_hf_to_gguf.py.")] = None,
    module: options.Import = None,
) -> None:
    """Export an image model for llama.cpp: mmproj.gguf and the language model.

    Needs a CLIP or SigLIP tower, all its patches, and a linear or mlp aligner with
    one token per patch. Without --converter, the language model is written as a
    folder for that script.

    Example:
      anymodality export gguf my-llava --output my-llava-gguf
    """
    import torch

    from transformers_anymodality.hub.gguf import export

    model = load_model(source, device="cpu")
    for path in export(model, load_processor(source), output, getattr(torch, dtype), converter):
        tell(path)


@app.command(cls=Command)
def space(
    source: options.Source,
    output: Annotated[Path, option("DIR", "Folder to write; new or empty.")],
    system_prompt: options.SystemPrompt = None,
    examples: options.Examples = None,
    module: options.Import = None,
) -> None:
    """Export a Space of the Hub that runs the page of `anymodality demo`.

    The model is not copied: give its Hub id. Examples and their media are copied.

    Example:
      anymodality export space my-name/my-model --output my-space
    """
    from transformers_anymodality.utils.imports import require

    require("gradio", "demo")
    from transformers_anymodality.inference.demo import export_space

    for path in export_space(source, output, system_prompt=system_prompt, examples=examples, module=module):
        tell(path)
