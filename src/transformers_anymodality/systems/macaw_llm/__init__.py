"""Macaw-LLM ([2306.09093](https://arxiv.org/abs/2306.09093)) puts images, audio and videos in front of an Alpaca prompt.

CLIP reads images and frames, Whisper audio. A convolution shortens what they give, and each feature then attends over
LLaMA's whole table of token embeddings (`MacawAligner`), so that it becomes a blend of words. The code that was published
is not the one that made the published weights: `macaw_llm(graph=...)` has both. Its releases are converted by
`anymodality convert macaw_llm`, which tells by the file which graph it is of.
"""

from .aligner import MacawAligner, MacawAlignerConfig
from .preset import (
    DELIMITERS,
    GRAPHS,
    MODALITY_NAMES,
    chat_template,
    macaw_llm,
    modalities,
    prompts,
    whisper_processor,
    with_delimiters,
)


__all__ = [
    "DELIMITERS",
    "GRAPHS",
    "MODALITY_NAMES",
    "MacawAligner",
    "MacawAlignerConfig",
    "chat_template",
    "macaw_llm",
    "modalities",
    "prompts",
    "whisper_processor",
    "with_delimiters",
]
