"""Any causal language model with any senses, as one ordinary Transformers model. Importing registers everything."""

from transformers.utils import is_torchvision_available, is_vision_available

from .aligners import Aligner, AlignerConfig, register_aligner
from .compose import compose
from .configuration import AnyModalityConfig
from .data_collator import AnyModalityDataCollator
from .media import MediaError
from .modalities import (
    AudioSpec,
    ImageSpec,
    MapSpec,
    ModalitySpec,
    SignalFeatureExtractor,
    SignalSpec,
    TextSpec,
    VideoSpec,
    register_modality,
)
from .modeling import AnyModalityForCausalLM, AnyModalityModel
from .processing import AnyModalityProcessor
from .registration import register
from .towers import register_tower
from .training import lora_config, parts_table, set_trainable


__version__ = "0.1.0"

register()
# Published systems read images, which Transformers' own processors do only where these are.
if is_vision_available() and is_torchvision_available():
    from . import systems  # noqa: F401 (registers their parts)

__all__ = [
    "Aligner",
    "AlignerConfig",
    "AnyModalityConfig",
    "AnyModalityDataCollator",
    "AnyModalityForCausalLM",
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
