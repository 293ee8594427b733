"""Macaw-LLM: modalities attend over the token table ([2306.09093](https://arxiv.org/abs/2306.09093))."""

from .aligner import MacawAligner, MacawAlignerConfig
from .preset import (
    DELIMITERS,
    GRAPHS,
    SENSES,
    chat_template,
    macaw_llm,
    modalities,
    whisper_processor,
    with_delimiters,
)


__all__ = [
    "DELIMITERS",
    "GRAPHS",
    "SENSES",
    "MacawAligner",
    "MacawAlignerConfig",
    "chat_template",
    "macaw_llm",
    "modalities",
    "whisper_processor",
    "with_delimiters",
]
