"""`anymodality compose`."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from anymodality.commands._base import named_values, print_json, tell
from anymodality.commands._options import Import, Json, OwnDType, flag, listing, option


def _known() -> str:
    from transformers_anymodality.aligners import ALIGNERS
    from transformers_anymodality.modalities import MODALITIES
    from transformers_anymodality.systems import SYSTEMS

    known = {"systems": SYSTEMS, "modalities": MODALITIES, "aligners": ALIGNERS}
    return "\n".join(f"{kind + ':':<12} {', '.join(names)}" for kind, names in known.items())


def compose(
    output: Annotated[str | None, option("DIR", "Folder of the checkpoint; must not exist.")] = None,
    config: Annotated[str | None, option("FILE.yaml", "YAML file of settings.")] = None,
    language_model: Annotated[str | None, option("ID_OR_DIR", "Language model: Hub id, folder or GGUF file.")] = None,
    modality: Annotated[
        list[str] | None, option("NAME=TOWER", "Modality and its tower, or {tower: ..., ...}; repeatable.")
    ] = None,
    system: Annotated[str | None, option("NAME", "Published system, instead of --modality.")] = None,
    option: Annotated[list[str] | None, option("NAME=VALUE", "Option of the system's preset; repeatable.")] = None,
    tokenizer: Annotated[str | None, option("ID_OR_DIR", "Tokenizer; default: the language model's.")] = None,
    dtype: OwnDType = None,
    plan: Annotated[bool, flag("--plan", "Plan only: print parts, memory and tokens; no weights.")] = False,
    load_in_4bit: Annotated[
        bool, flag("--load-in-4bit", "With --plan: count the language model in 4 bits (NF4).")
    ] = False,
    light: Annotated[bool, flag("--light", "Light checkpoint: references to unchanged parts, no copies.")] = False,
    json: Json = False,
    module: Import = None,
    names: Annotated[bool, listing(_known, "List systems, modalities and aligners, and exit.")] = False,
) -> None:
    """Compose a language model that also reads images, audio, ...

    Values are YAML. A --config file has the same settings, and chat_template,
    text and generation; the command line wins over the file. A config in place
    of a part (`{model_type: llama, hidden_size: 64}`) means random weights.

    Example:
      anymodality compose --language-model Qwen/Qwen3-0.6B --output my-model \\
          --modality image=google/siglip2-base-patch16-224
    """
    import torch

    from transformers_anymodality.hub.inspect import inspect_checkpoint, inspect_model
    from transformers_anymodality.model.quantization import plan_four_bits
    from transformers_anymodality.utils.files import check_new

    if plan == (output is not None):
        raise typer.BadParameter("Give the checkpoint's folder, --output, or use --plan for no checkpoint.")
    if load_in_4bit and not plan:
        raise typer.BadParameter("--load-in-4bit needs --plan: checkpoints are quantised when they are loaded.")
    if output is not None:
        check_new(output)
    given = {"language_model": language_model, "system": system, "tokenizer": tokenizer, "dtype": dtype}
    settings = ({} if config is None else _read(config)) | {
        name: value for name, value in given.items() if value is not None
    }
    for name, words in (("modalities", modality), ("options", option)):
        if words:
            settings[name] = {**(settings.get(name) or {}), **named_values(words)}
    with torch.device("meta") if plan else nullcontext():
        model, processor = compose_from(settings)
    if load_in_4bit:
        plan_four_bits(model.language_model)
    if output is None:
        found = inspect_model(model, processor, "plan")
    else:
        model.save_pretrained(output, light=light)
        processor.save_pretrained(output)
        found = inspect_checkpoint(output)
    print_json(found.to_dict()) if json else tell(found)


_SETTINGS = ("language_model", "system", "options", "modalities", "tokenizer", "dtype") + (
    ("chat_template", "text", "generation")
)


def compose_from(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Composes the model of a recipe: `language_model` and `modalities`, or a `system` and its `options`.

    Raises:
        ValueError: unknown or missing settings.
    """
    from transformers_anymodality import compose
    from transformers_anymodality.systems import SYSTEMS
    from transformers_anymodality.utils.registry import did_you_mean

    if unknown := sorted(set(settings) - set(_SETTINGS)):
        raise ValueError(f"Unknown setting {unknown[0]!r}.{did_you_mean(unknown[0], _SETTINGS)}")
    rest = {name: _configs(value) for name, value in settings.items() if value is not None}
    system, options, modalities = (rest.pop(name, None) for name in ("system", "options", "modalities"))
    if system is None:
        if not modalities or "language_model" not in rest:
            raise ValueError("Nothing to compose: give --language-model and --modality, or --system. See --help.")
        return compose(modalities=modalities, **rest)
    if modalities:
        raise ValueError("A system has its own modalities: choose among them with --option, or leave out --system.")
    preset = SYSTEMS[system](rest.pop("language_model", None), rest.pop("tokenizer", None), **(options or {}))
    return compose(**{**preset, **rest})


def _read(file: str) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must be a table of settings: {', '.join(_SETTINGS)}.")
    return settings


def _configs(value: Any) -> Any:
    """Turns tables with a `model_type` into configs."""
    from transformers import AutoConfig

    if not isinstance(value, dict):
        return value
    if "model_type" in value:
        return AutoConfig.for_model(**value)
    return {name: _configs(one) for name, one in value.items()}
