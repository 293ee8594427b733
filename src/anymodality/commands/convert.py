"""`anymodality convert`."""

from typing import Annotated

from anymodality.commands._base import tell
from anymodality.commands._options import OwnDType, argument, flag, listing, option


def _conversions() -> str:
    from transformers_anymodality.conversion import CONVERSIONS

    width = max(map(len, CONVERSIONS))
    return "\n".join(f"{name:<{width}}  {CONVERSIONS[name].help}" for name in CONVERSIONS)


def convert(
    system: Annotated[str, argument("CONVERSION", "Name of a conversion; see --list.")],
    source: Annotated[str, option("DIR", "Folder of the released files.", "--from")],
    output: Annotated[str, option("DIR", "Folder of the checkpoint; must not exist.")],
    language_model: Annotated[
        str | None, option("ID_OR_DIR", "Language model to use instead of the release's; same width.")
    ] = None,
    tokenizer: Annotated[str | None, option("ID_OR_DIR", "Tokenizer, if the release has none.")] = None,
    light: Annotated[bool, flag("--light", "Light checkpoint: a reference to --language-model, no copy.")] = False,
    merge: Annotated[bool, flag("--merge", "Merge LoRA weights; otherwise they become an adapter.")] = False,
    faithful: Annotated[bool, flag("--faithful", "Reproduce the known bugs of the release.")] = False,
    dtype: OwnDType = None,
    max_shard_size: Annotated[float, option("GB", "Maximum size of a weight file.")] = 1.0,
    names: Annotated[bool, listing(_conversions, "List the conversions, and exit.")] = False,
) -> None:
    """Convert a released checkpoint for the Auto classes.

    Every tensor of the release is used, or listed with the reason why not. If a
    parameter is not filled, nothing is written. Memory holds one shard at a time.

    Example:
      anymodality convert pandagpt --from release/ --output panda/
    """
    from transformers_anymodality import conversion

    report = conversion.convert(
        system,
        source,
        output,
        light=light,
        dtype=dtype,
        max_shard_size=int(max_shard_size * 10**9),
        language_model=language_model,
        tokenizer=tokenizer,
        merge=merge,
        faithful=faithful,
    )
    tell(report)
