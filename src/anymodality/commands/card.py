"""`anymodality card`."""

from pathlib import Path
from typing import Annotated

import typer

from anymodality.commands._base import tell
from anymodality.commands._options import Import, argument, flag, option


Words = list[str] | None


def card(
    folder: Annotated[str, argument("DIR", "Folder of the checkpoint.")],
    name: Annotated[str | None, option("ORG/NAME", "Hub id; default: the folder's name.")] = None,
    licence: Annotated[
        Words,
        option(
            "[PART=]NAME",
            "Licence of a part (image_tower=mit) or of the model; default: from the parts; repeatable.",
        ),
    ] = None,
    base_model: Annotated[Words, option("ID", "Base model; default: from the parts; repeatable.")] = None,
    language: Annotated[Words, option("CODE", "Language code (ISO 639), such as en; repeatable.")] = None,
    dataset: Annotated[Words, option("ID", "Training data set; repeatable.")] = None,
    recipe: Annotated[str | None, option("FILE", "YAML file of the training.")] = None,
    results: Annotated[str | None, option("FILE", "File of evaluation results; default: results.json in DIR.")] = None,
    limit: Annotated[Words, option("TEXT", "Limitation of the model; repeatable.")] = None,
    stdout: Annotated[bool, flag("--stdout", "Print the card instead of writing DIR/README.md.")] = False,
    force: Annotated[bool, flag("--force", "Replace an existing card.")] = False,
    module: Import = None,
) -> None:
    """Write the model card of a checkpoint.

    The card takes its facts from the checkpoint, the loss from trainer_state.json,
    and results from results.json. Its licence is the strictest of all parts.

    Example:
      anymodality card my-model --name my-name/my-model --language en
    """
    from transformers_anymodality.hub import make_card
    from transformers_anymodality.hub.card import UNKNOWN

    place = Path(folder) / "README.md"
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a checkpoint: it has no config.json.")
    if place.exists() and not (force or stdout):
        raise FileExistsError(f"{place} exists already: --force replaces it, --stdout prints the new one.")
    made = make_card(
        folder,
        name=name,
        licences=_licences(licence or []),
        base_models=base_model,
        languages=language or (),
        datasets=dataset or (),
        recipe=None if recipe is None else Path(recipe).read_text(encoding="utf-8"),
        results=results,
        limits=limit or (),
    )
    if stdout:
        return print(made)
    place.write_text(f"{made}\n", encoding="utf-8")
    unknown = " (the card's last section says whose)" if made.data.license == UNKNOWN else ""
    tell(f"{place}: written; licence {made.data.license}{unknown}.")


def _licences(words: list[str]):
    from transformers_anymodality.hub import Licences

    parts = dict(word.split("=", 1) for word in words if "=" in word)
    whole = [word for word in words if "=" not in word]
    if len(whole) > 1:
        raise typer.BadParameter(f"The model has one licence, not {', '.join(whole)}.")
    return Licences(whole[0] if whole else None, parts)
