"""X-LLM ([2305.04160](https://arxiv.org/abs/2305.04160)) treats images, videos and speech as foreign languages for ChatGLM.

BLIP-2's ViT and Q-Former read images and frames. Speech is one feature per spoken token, which continuous
integrate-and-fire finds among the frames of a speech encoder (`CifModel`); a BERT and a projection follow
(`SpeechInterfaceAligner`). ChatGLM-6B, which Transformers lacks, is here (`ChatGLMForCausalLM`) with its tokenizer
(`chatglm_tokenizer`), and so is the modality "speech" (`media`). No weights were released: `anymodality convert x_llm`
reads checkpoints of its training, `anymodality convert cif` a CIF alone.
"""

from .aligner import SpeechInterfaceAligner, SpeechInterfaceAlignerConfig
from .chatglm import ChatGLMConfig, ChatGLMForCausalLM, ChatGLMModel
from .cif import CifConfig, CifModel
from .preset import CHATGLM_TAIL, chat_template, is_chatglm, modalities, x_llm


__all__ = [
    "CHATGLM_TAIL",
    "ChatGLMConfig",
    "ChatGLMForCausalLM",
    "ChatGLMModel",
    "CifConfig",
    "CifModel",
    "SpeechInterfaceAligner",
    "SpeechInterfaceAlignerConfig",
    "chat_template",
    "is_chatglm",
    "modalities",
    "x_llm",
]
