"""Lets `trust_remote_code=True` load this checkpoint: all code is in the package `transformers-anymodality`."""

try:
    from transformers_anymodality import (  # noqa: F401
        AnyModalityConfig,
        AnyModalityForCausalLM,
        AnyModalityModel,
        AnyModalityProcessor,
    )
except ModuleNotFoundError as error:
    if error.name != "transformers_anymodality":
        raise
    raise ImportError(
        "This checkpoint needs the package transformers-anymodality. Install it by: "
        'pip install "transformers-anymodality[image,audio,video,signal]"'
    ) from error
