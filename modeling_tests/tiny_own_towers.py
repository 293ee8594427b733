"""Tiny configurations of the towers that this package defines."""

from dataclasses import dataclass
from typing import Any

from transformers import CLIPImageProcessor, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

from modeling_tests.checks import tiny_setting
from transformers_anymodality import Aligner
from transformers_anymodality.systems.mplug_owl.tower import MplugOwlVisionConfig
from transformers_anymodality.systems.x_llm.cif import CifConfig
from transformers_anymodality.systems.x_llm.media import TokenFeatureExtractor
from transformers_anymodality.towers.imagebind import (
    ImageBindAudioConfig,
    ImageBindAudioFeatureExtractor,
    ImageBindDepthConfig,
    ImageBindDepthImageProcessor,
    ImageBindImageProcessor,
    ImageBindImuConfig,
    ImageBindTextConfig,
    ImageBindThermalConfig,
    ImageBindThermalImageProcessor,
    ImageBindVisionConfig,
)
from transformers_anymodality.towers.imu2clip import Imu2ClipConfig, Imu2ClipPatchTransformerConfig
from transformers_anymodality.towers.precomputed import PrecomputedConfig


@dataclass
class OwnTower:
    """What it reads (a kind of `tower_cases`), how small it is, and the sub-processor, where the default is not."""

    kind: str
    config: PreTrainedConfig
    processor: Any = None


_IMAGEBIND = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, projection_dim=16)
_SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
_IMAGES = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
_SPECTRUM = dict(num_mel_bins=32, target_length=60)

# Model type -> tower.
OWN_TOWERS: dict[str, OwnTower] = {
    tower.config.model_type: tower
    for tower in (
        OwnTower(
            "image", ImageBindVisionConfig(**_IMAGEBIND, image_size=28, patch_size=7), ImageBindImageProcessor(28)
        ),
        OwnTower("text", ImageBindTextConfig(**_IMAGEBIND, vocab_size=40, max_position_embeddings=16)),
        OwnTower(
            "audio",
            ImageBindAudioConfig(**_IMAGEBIND, **_SPECTRUM),
            ImageBindAudioFeatureExtractor(**_SPECTRUM, clip_seconds=0.6),
        ),
        OwnTower("depth", ImageBindDepthConfig(**_IMAGEBIND, image_size=32), ImageBindDepthImageProcessor(32)),
        OwnTower("thermal", ImageBindThermalConfig(**_IMAGEBIND, image_size=32), ImageBindThermalImageProcessor(32)),
        OwnTower("series", ImageBindImuConfig(**_IMAGEBIND, context_length=80)),
        OwnTower("series", Imu2ClipConfig(hidden_size=16, conv_channels=8, context_length=350)),
        OwnTower("series", Imu2ClipPatchTransformerConfig(**_SMALL, context_length=80)),
        OwnTower("speech", PrecomputedConfig(hidden_size=24, context_length=8)),
        OwnTower("speech", CifConfig(feature_size=24, hidden_size=24), TokenFeatureExtractor(24, 8)),
        OwnTower("image", MplugOwlVisionConfig(**_SMALL, image_size=28, patch_size=14), _IMAGES),
    )
}
# Model types that are no towers of one modality, and why.
NOT_TOWERS = {"imagebind": "holds the towers of six modalities, which are listed by themselves"}


def own_tower_types() -> list[str]:
    """What this package registers as a tower: models that are neither aligners nor language models."""
    return [
        config.model_type
        for config, model in MODEL_MAPPING._extra_content.items()
        if config.__module__.startswith("transformers_anymodality.")
        and not issubclass(model, Aligner)
        and config not in MODEL_FOR_CAUSAL_LM_MAPPING
        and config.model_type not in NOT_TOWERS
    ]


def own_tower(name: str) -> OwnTower:
    return tiny_setting(OWN_TOWERS, name, "OWN_TOWERS in tiny_own_towers.py")
