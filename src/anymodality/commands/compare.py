"""`anymodality compare`."""

from typing import Annotated

from anymodality.commands import _options as options
from anymodality.commands._base import print_json, tell
from anymodality.commands._options import argument


def compare(
    before: Annotated[str, argument("A.json", "Results of `anymodality evaluate`.")],
    after: Annotated[str, argument("B.json", "Other results, on the same samples.")],
    json: options.Json = False,
) -> None:
    """Compare two evaluations by paired bootstrap over samples.

    Prints each metric of all shared tasks: the difference, its 95 % interval, p.

    Example:
      anymodality compare before.json after.json
    """
    from transformers_anymodality.evaluation.comparing import as_table, compare

    found = compare(before, after)
    print_json([vars(one) for one in found]) if json else tell(as_table(found))
