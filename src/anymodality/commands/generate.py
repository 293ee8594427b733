"""`anymodality generate`."""

import time
from typing import Annotated, Any

import typer

from anymodality.commands import _options as options
from anymodality.commands._base import Command, load_model, load_processor, media_part, print_json, sampling, tell
from anymodality.commands._options import argument


class CLASS(Command):
    """Keeps unknown options as words: they name the model's modalities."""

    ignore_unknown_options = True

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:
        return ["DIR PROMPT [--MODALITY PATH]... [OPTIONS]"]


def generate(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        argument("DIR PROMPT", "Model (folder or Hub id) and prompt; media: --image photo.jpg --imu walk.csv."),
    ],
    system_prompt: options.SystemPrompt = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    allow_urls: options.AllowUrls = False,
    dtype: options.DType = "auto",
    device: options.Device = None,
    json: options.Json = False,
    module: options.Import = None,
) -> None:
    """Answer one prompt with any media.

    Media come before the prompt, in the given order. The option of each modality
    has its name: --image, --imu, ...

    Example:
      anymodality generate my-model "What is this?" --image photo.jpg
    """
    (source, prompt), media = _split(words)
    processor = load_processor(source)
    _check(ctx, source, media, processor)
    model = load_model(source, dtype, device)
    inputs = processor.apply_chat_template(
        _messages(prompt, media, system_prompt),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"allow_urls": allow_urls},
    ).to(model.device)
    generation = sampling(model, max_new_tokens, temperature, seed)
    started = time.monotonic()
    output = model.generate(**inputs, **generation)
    answer = output[0, inputs["input_ids"].shape[1] :]
    text = processor.decode(answer, skip_special_tokens=True).strip()
    if not json:
        return tell(text)
    print_json(
        {
            "model": source,
            "prompt": prompt,
            "media": [{"modality": name, "path": path} for name, path in media],
            "text": text,
            "prompt_tokens": inputs["input_ids"].shape[1],
            "new_tokens": len(answer),
            "seconds": round(time.monotonic() - started, 3),
        }
    )


def _split(words: list[str]) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    """The model and the prompt, and media as (modality, path)."""
    plain, media, rest = [], [], iter(words)
    for word in rest:
        if not word.startswith("--"):
            plain.append(word)
            continue
        name, equals, path = word[2:].partition("=")
        path = path if equals else next(rest, None)
        if not path:
            raise typer.BadParameter(f"{word} needs a path.")
        media.append((name.replace("-", "_"), path))
    if len(plain) != 2:
        raise typer.BadParameter(f"Give a model and one prompt (in quotes), not {len(plain)} words: {plain}.")
    return (plain[0], plain[1]), media


def _messages(prompt: str, media: list[tuple[str, str]], system_prompt: str | None) -> list[dict[str, Any]]:
    content = [*(media_part(name, path) for name, path in media), {"type": "text", "text": prompt}]
    first = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*first, {"role": "user", "content": content}]


def _check(ctx: typer.Context, source: str, media: list[tuple[str, str]], processor: Any) -> None:
    from transformers_anymodality.utils.registry import did_you_mean

    own = [f"--{modality.replace('_', '-')}" for modality in processor.modalities]
    for name, _ in media:
        if name not in processor.modalities:
            option = f"--{name.replace('_', '-')}"
            known = [name for parameter in ctx.command.params for name in parameter.opts if name.startswith("--")]
            hint = did_you_mean(option, [*own, *known])
            raise typer.BadParameter(f"There is no {option}.{hint} Media of {source}: {', '.join(own)}.")
