"""`anymodality inspect`."""

from pathlib import Path
from typing import Annotated, Any

from anymodality.commands._base import Command, print_json, tell
from anymodality.commands._options import Import, Json, argument, option


class CLASS(Command):
    """Loads the package only for facts that are not in a folder's files."""

    loads_package = False


def inspect(
    source: Annotated[str, argument("DIR", "Checkpoint: a folder or Hub id.")],
    revision: Annotated[str | None, option("NAME", "Branch, tag or commit of a repository on the Hub.")] = None,
    json: Json = False,
    module: Import = None,
) -> None:
    """Print parts and modalities of a checkpoint; loads no weights.

    From the Hub, it fetches only the config and the headers of the weight files.
    Tokens are counted per item.

    Example:
      anymodality inspect my-name/my-model --revision v1.0
    """
    if Path(source).is_dir():
        from anymodality.plain.inspection import inspect_folder

        found = inspect_folder(source, _count_tokens)
    else:
        from transformers_anymodality.hub.inspect import inspect_checkpoint

        found = inspect_checkpoint(source, revision=revision)
    print_json(found.to_dict()) if json else tell(found)


def _count_tokens(*asked: Any) -> Any:
    from transformers_anymodality.hub.inspect import count_tokens

    return count_tokens(*asked)
