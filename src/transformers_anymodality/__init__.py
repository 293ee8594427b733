"""Any causal language model with any modality, as one ordinary Transformers model. Importing registers everything."""

from .utils import upstream_noise  # noqa: F401 (first: the imports below log what it silences)


# isort: split

from . import systems  # noqa: F401 (registers their parts)
from .aligners import Aligner, AlignerConfig, register_aligner
from .auto import register
from .compose import compose
from .data.collator import AnyModalityDataCollator
from .modalities import (
    AudioSpec,
    ImageSpec,
    MapSpec,
    MediaError,
    ModalitySpec,
    SignalFeatureExtractor,
    SignalSpec,
    TextSpec,
    VideoSpec,
    register_modality,
)
from .model.classification import AnyModalityForSequenceClassification
from .model.configuration import AnyModalityConfig
from .model.modeling import AnyModalityForCausalLM, AnyModalityModel
from .processing.processor import AnyModalityProcessor
from .towers import register_tower
from .training.lora import lora_config
from .training.parts import parts_table, set_trainable
from .utils.upstream import warn_if_untested


__version__ = "0.1.0"

register()
warn_if_untested()

__all__ = [
    "Aligner",
    "AlignerConfig",
    "AnyModalityConfig",
    "AnyModalityDataCollator",
    "AnyModalityForCausalLM",
    "AnyModalityForSequenceClassification",
    "AnyModalityModel",
    "AnyModalityProcessor",
    "AudioSpec",
    "ImageSpec",
    "MapSpec",
    "MediaError",
    "ModalitySpec",
    "SignalFeatureExtractor",
    "SignalSpec",
    "TextSpec",
    "VideoSpec",
    "compose",
    "lora_config",
    "parts_table",
    "register_aligner",
    "register_modality",
    "register_tower",
    "set_trainable",
]
