"""`anymodality inspect`."""

from typing import Annotated

from anymodality.commands._base import print_json
from anymodality.commands._options import Import, Json, argument, option


def inspect(
    source: Annotated[str, argument("DIR", "A checkpoint: a folder or Hub id.")],
    revision: Annotated[str | None, option("NAME", "Branch, tag or commit of a repository on the Hub.")] = None,
    json: Json = False,
    module: Import = None,
) -> None:
    """Print parts and modalities of a checkpoint; loads no weights.

    \b
      anymodality inspect my-anymal
      anymodality inspect org/anymal --revision v1.0
      anymodality inspect my-anymal --json | jq '.parts[] | {name, parameters}'

    Of a repository on the Hub, the config and the headers of the weight files are fetched, and no more. Tokens are
    those that one medium takes in the prompt.
    """
    from transformers_anymodality.hub.inspect import inspect_checkpoint

    found = inspect_checkpoint(source, revision=revision)
    print_json(found.to_dict()) if json else print(found)
