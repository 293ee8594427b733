"""X-LLM: a Q-Former for pictures, CIF for speech, ChatGLM ([2305.04160](https://arxiv.org/abs/2305.04160))."""

from . import chatglm, chatglm_tokenizer  # noqa: F401 (they register with the Auto classes)
from .aligner import SpeechInterfaceAligner, SpeechInterfaceAlignerConfig
from .cif import CifConfig, CifModel
from .preset import CHATGLM_TAIL, chat_template, is_chatglm, modalities, x_llm


__all__ = [
    "CHATGLM_TAIL",
    "CifConfig",
    "CifModel",
    "SpeechInterfaceAligner",
    "SpeechInterfaceAlignerConfig",
    "chat_template",
    "is_chatglm",
    "modalities",
    "x_llm",
]
