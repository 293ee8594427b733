"""`anymodality convert`."""

from typing import Annotated

from anymodality.commands._base import ListingCommand
from anymodality.commands._options import OwnDType, argument, flag, option


class CLASS(ListingCommand):
    def listing(self) -> str:
        from transformers_anymodality.conversion import CONVERSIONS

        width = max(map(len, CONVERSIONS))
        return "conversions:\n" + "\n".join(f"  {name:<{width}}  {CONVERSIONS[name].help}" for name in CONVERSIONS)


def convert(
    system: Annotated[str, argument("CONVERSION", "One of those below.")],
    source: Annotated[str, option("DIR", "The released files.", "--from")],
    output: Annotated[str, option("DIR", "Folder of the checkpoint; must not exist.")],
    language_model: Annotated[
        str | None, option("ID_OR_DIR", "Language model of the same width instead of the release's.")
    ] = None,
    tokenizer: Annotated[str | None, option("ID_OR_DIR", "Tokenizer, where none lies beside the release.")] = None,
    light: Annotated[bool, flag("--light", "Refer to --language-model instead of storing it.")] = False,
    merge: Annotated[bool, flag("--merge", "Merge LoRA weights; else they become an adapter beside.")] = False,
    faithful: Annotated[bool, flag("--faithful", "Reproduce the release's known bugs, too.")] = False,
    dtype: OwnDType = None,
    max_shard_size: Annotated[float, option("GB", "Size of a file of weights.")] = 1.0,
) -> None:
    """Write a released checkpoint as one that the Auto classes load.

    \b
      anymodality convert pandagpt --from release/ --output panda/
      anymodality convert x_llm --from release/ --output x_llm/ --language-model THUDM/chatglm-6b

    The folder holds the files as they were released; a missing one is named. Tensors are streamed: memory holds one
    shard. Every tensor of the release is used or listed with the reason why not, every parameter is filled or nothing
    is written.
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
    print(report)
