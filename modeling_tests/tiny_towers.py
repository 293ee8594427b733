"""Tiny configurations and inputs of the image, video, audio and time-series encoders that `AutoModel` knows."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig, TimmWrapperConfig

from modeling_tests.tiny_configs import shrink
from modeling_tests.tiny_tower_types import CHANNELS_FIRST, HALVES, KINDS, PACKED, SERIES, WAVEFORM


BATCH = 2
# Images are square, of this side where the configuration does not say otherwise.
IMAGE_SIDE = 64
FRAMES_PER_CLIP = 4
# Samples of a waveform, and frames of a spectrogram, where the encoder takes any number of them.
SAMPLES, SPECTRA = 3840, 64

_TINY_TIMM = "resnet10t"
_TINY_TIMM_ARGS: dict[str, Any] = {"stem_width": 8, "channels": (16, 24, 32, 48)}
_SERIES_LENGTHS = {"prediction_length": 8, "context_length": 24, "lags_sequence": [1, 2, 3]}
_NARROW_FILTERS = {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}
# Kernel, input and output channels, stride, gate: the first channels are those of the stem.
_LCNET = [[[3, 24, 24, 1, True]], [[3, 24, 24, 1, False]], [[3, 24, 48, [2, 1], False]], [[3, 48, 96, [2, 1], False]]]
# A layer that pools between two stages cannot attend globally.
_HIERA = {"hidden_size": 24, "image_size": [64, 64], "blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3]}
_LAST_LAYER = {"out_features": None, "out_indices": None}

# Where the general rule fails: what to set, and why.
SPECIAL: dict[str, dict[str, Any]] = {
    # Widths that follow from a multiplier, not from a size
    "align": {"vision_config": _NARROW_FILTERS},
    "efficientnet": _NARROW_FILTERS,
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevitv2": {"width_multiplier": 0.25},
    "pp_ocrv5_mobile_rec": {"backbone_config": {"scale": 0.25}},
    **dict.fromkeys(["pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec"], {"backbone_config": {"block_configs": _LCNET}}),
    # Windows no larger than the smallest stage, whose bias table is not cut to it
    "donut-swin": {"window_size": 2},
    "clap": {"audio_config": {"window_size": 2}},
    "swin": {"window_size": 2},
    "qwen2_5_vl_vision": {"window_size": 56},
    "exaone4_5_vision": {"window_size": 56},
    # Widths that must agree with those of another field
    "granite_docling_vision": {"out_hidden_size": 64},
    "gemma4_audio": {"subsampling_conv_channels": [128, 8]},
    "mimi": {"vector_quantization_hidden_dimension": 8},
    "neucodec": {"quantization_dim": 128},
    "sam2_hiera_det_model": _HIERA,
    "sam2_vision_model": {"backbone_config": _HIERA},
    "sapiens2": {"num_key_value_heads_per_layer": [4, 2]},
    "swin2sr": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},
    "textnet": {"stem_out_channels": 16},
    "xcodec2": {"quantization_dim": 128},
    # The kinds of layers are given by their place
    "granite_speech5_encoder": {"num_hidden_layers": 3},
    "swiftformer": {"depths": [2, 2, 2, 2]},
    # Its drop rates are read at the index of the stage
    "cvt": {"depth": [1, 2, 3]},
    # Widths that double at each stage
    "muse_spark_audio": {"hidden_sizes": [16, 24, 32, 48]},
    "vibevoice_acoustic_tokenizer": {"num_filters": 2},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 2},
    # Its head reads all stages, the default gives the last; and widths are pairs of channels
    "uvdoc": {
        "backbone_config": {
            "resnet_head": [[3, 8], [8, 8]],
            "resnet_configs": [[[8, 8, 1, False]], [[8, 16, 1, True]], [[16, 32, 1, True]]],
            "stage_configs": [[[32, 1]], [[32, 2]]],
            "out_indices": [1, 2],
        },
        "bridge_connector": [32, 32],
        "out_point_positions2D": [[32, 8], [8, 2]],
    },
    # timm architectures by name: the default is missing, or large (MobileNetV5 for Gemma 3n, with no small sizes)
    "edgetam_vision_model": {
        "backbone_config": {
            "architecture": _TINY_TIMM,
            "model_args": {**_TINY_TIMM_ARGS, "features_only": True, "out_indices": [1, 2, 3, 4]},
        },
        "backbone_channel_list": [48, 32, 24, 16],
    },
    "gemma3n_vision": {"architecture": _TINY_TIMM, "model_args": _TINY_TIMM_ARGS},
    "pe_video_encoder": {
        "vision_config": {
            "architecture": "vit_pe_core_tiny_patch16_384",
            "model_args": {"img_size": IMAGE_SIDE, "depth": 2, "embed_dim": 64, "num_heads": 4},
        }
    },
    "timm_backbone": {"backbone": "test_resnet"},
    "timm_wrapper": {"architecture": _TINY_TIMM, "model_args": _TINY_TIMM_ARGS},
    # One patch is an image of its inner encoders
    "depth_pro": {
        "patch_size": 32,
        "intermediate_hook_ids": [1, 0],
        "intermediate_feature_dims": [32, 32],
        "scaled_images_feature_dims": [64, 64, 32],
        **{f"{part}_model_config": {"image_size": 32, **_LAST_LAYER} for part in ("image", "patch", "fov")},
    },
    # Merged in the middle of its layers
    "minicpm_ocr_vision": {"insert_layer_id": 0},
    "minicpmv4_7_vision": {"insert_layer_id": 0},
    "hunyuan_vl_vision": {"max_image_size": 64},
    # Its two encoders agree on the number of frames only at a hop of 960 samples
    "higgs_audio_v2_tokenizer": {
        "acoustic_model_config": {"downsampling_ratios": [8, 5, 4, 2, 3], "upsampling_ratios": [8, 5, 4, 2, 3]}
    },
    # It takes a fixed number of frames
    "audio-spectrogram-transformer": {"max_length": SPECTRA},
    # The decoder reads a number of heads that the default lacks
    "moonshine_streaming": {"num_key_value_heads": 2},
    # The default leaves the lengths open
    **dict.fromkeys(["autoformer", "informer", "time_series_transformer"], _SERIES_LENGTHS),
    "timesfm": {"context_length": 64},
    "timesfm2_5": {"context_length": 64},
}


def encoder_types() -> list[str]:
    """The model types of all encoders of other modalities than text."""
    return list(KINDS)


def tiny_encoder(model_type: str) -> PreTrainedConfig:
    """A configuration of this type with which `build_encoder` builds a tiny encoder."""
    return shrink(CONFIG_MAPPING[model_type](), vocab_size=96, **copy.deepcopy(SPECIAL.get(model_type, {})))


def build_encoder(config: PreTrainedConfig) -> nn.Module:
    """The encoder of a configuration: the whole model, or the half of it that encodes the modality."""
    model = AutoModel.from_config(config)
    if config.model_type in HALVES:
        return getattr(model, HALVES[config.model_type])
    # The time-series models embed the values outside of their encoder.
    is_half = config.is_encoder_decoder and config.model_type not in SERIES
    return model.get_encoder() if is_half else model


def _find(config: PreTrainedConfig, name: str, default: Any) -> Any:
    """A value of the configuration, or of the first of its parts that has it."""
    value = getattr(config, name, None)
    if value is not None:
        return value
    parts = [part for part in vars(config).values() if isinstance(part, PreTrainedConfig)]
    return next((found for part in parts if (found := _find(part, name, None)) is not None), default)


def _side(size: int | list[int]) -> int:
    return size if isinstance(size, int) else size[0]


def _packed_images(config: PreTrainedConfig) -> dict[str, Any]:
    """Two square images of 4 x 4 patches each, in the form that this family of encoders takes."""
    name = config.model_type
    # Gemma 4 pools squares of 3 x 3 patches
    grid = 6 if name == "gemma4_vision" else 4
    side, channels = _find(config, "patch_size", 16), 3
    frames = _find(config, "temporal_patch_size", _find(config, "patch_temporal", 1))
    count, width = BATCH * grid * grid, channels * side * side
    grid_thw = torch.tensor([[1, grid, grid]] * BATCH)
    if name == "gemma4_vision":
        rows = torch.arange(grid)
        positions = torch.cartesian_prod(rows, rows).flip(-1)
        return {
            "pixel_values": torch.rand(BATCH, grid * grid, width),
            "pixel_position_ids": positions.expand(BATCH, -1, -1),
        }
    if name == "siglip2_vision_model":
        return {
            "pixel_values": torch.rand(BATCH, grid * grid, width),
            "pixel_attention_mask": torch.ones(BATCH, grid * grid, dtype=torch.long),
            "spatial_shapes": grid_thw[:, 1:],
        }
    if name in ("minicpm_ocr_vision", "minicpmv4_7_vision"):
        return {"pixel_values": torch.rand(1, channels, side, count * side), "target_sizes": grid_thw[:, 1:]}
    if name == "inkling2_vision":
        merge = config.spatial_merge_size
        return {
            "pixel_values": torch.rand(count // merge**2, merge * side, merge * side, channels),
            "image_grid_thw": torch.tensor([[1, grid // merge, grid // merge]] * BATCH),
        }
    if name == "kimi_k25_vision":
        return {"pixel_values": torch.rand(count, channels, side, side), "grid_thw": grid_thw}
    if name in ("hunyuan_vl_vision", "glm_image_vision", "cosmos3_edge_vision"):
        return {"pixel_values": torch.rand(count, width), "grid_thw": grid_thw}
    if name == "video_llama_3_vision":
        return {
            "pixel_values": torch.rand(count, width),
            "grid_thw": grid_thw,
            "merge_sizes": torch.full((BATCH,), 2),
        }
    key = "pixel_values" if name in ("lfm3_vl_vision", "muse_glimmer_vision", "muse_spark_vision") else "hidden_states"
    return {key: torch.rand(count, frames * width), "grid_thw": grid_thw}


def _waveforms(config: PreTrainedConfig) -> dict[str, Any]:
    name = config.model_type
    if name in ("moonshine", "moonshine_streaming", "muse_spark_audio") or hasattr(config, "conv_dim"):
        return {"input_values": torch.rand(BATCH, SAMPLES)}
    waves = torch.rand(BATCH, 1, SAMPLES)
    if name in ("neucodec", "xcodec2"):
        return {"input_values": waves, "input_features": torch.rand(BATCH, SAMPLES // 320, 160)}
    return {"hidden_states" if name == "vibevoice_acoustic_tokenizer_encoder" else "input_values": waves}


def _spectrograms(config: PreTrainedConfig) -> dict[str, Any]:
    name = config.model_type
    # Log-mel bins, or what the feature extractor stacks of them
    bins = _find(config, "num_mel_bins", _find(config, "input_feat_size", 128))
    bins = {"granite_speech5_encoder": 4 * bins, "speech_to_text": 80}.get(name, bins)
    bins = _find(config, "feature_projection_input_dim", bins)
    mask = torch.ones(BATCH, SPECTRA, dtype=torch.long)
    if name == "audio-spectrogram-transformer":
        return {"input_values": torch.rand(BATCH, SPECTRA, bins)}
    if name == "clap":
        return {"input_features": torch.rand(BATCH, 1, SPECTRA, bins), "is_longer": torch.zeros(BATCH, 1).bool()}
    if name == "gemma3n_audio":
        # Here true marks the padding
        return {"audio_mel": torch.rand(BATCH, SPECTRA, bins), "audio_mel_mask": torch.zeros(BATCH, SPECTRA).bool()}
    if name == "gemma4_audio":
        return {"input_features": torch.rand(BATCH, SPECTRA, bins), "attention_mask": mask.bool()}
    if name == "fun_asr_nano_encoder":
        return {"input_features": torch.rand(BATCH, SPECTRA, config.input_size), "input_features_mask": mask}
    if name == "qwen3_asr_encoder":
        # Whole windows
        frames = 2 * config.n_window
        ones = torch.ones(BATCH, frames, dtype=torch.long)
        return {"input_features": torch.rand(BATCH, bins, frames), "input_features_mask": ones}
    channels_first = {"input_features": torch.rand(BATCH, bins, SPECTRA)}
    if name == "audioflamingo3_encoder":
        return {**channels_first, "input_features_mask": mask}
    if name in CHANNELS_FIRST:
        return channels_first
    return {"input_features": torch.rand(BATCH, SPECTRA, bins)}


def _series(config: PreTrainedConfig) -> dict[str, Any]:
    name, length = config.model_type, config.context_length
    if name in ("patchtsmixer", "patchtst"):
        return {"past_values": torch.rand(BATCH, length, config.num_input_channels)}
    if name == "timesfm":
        padding, frequency = torch.zeros(BATCH, length), torch.zeros(BATCH, 1, dtype=torch.long)
        return {"past_values": torch.rand(BATCH, length), "past_values_padding": padding, "freq": frequency}
    if name == "timesfm2_5":
        return {"past_values": torch.rand(BATCH, length), "past_values_padding": torch.zeros(BATCH, length)}
    past, future, features = length + max(config.lags_sequence), config.prediction_length, config.num_time_features
    return {
        "past_values": torch.rand(BATCH, past),
        "past_time_features": torch.rand(BATCH, past, features),
        "past_observed_mask": torch.ones(BATCH, past),
        "future_values": torch.rand(BATCH, future),
        "future_time_features": torch.rand(BATCH, future, features),
    }


def dummy_inputs(config: PreTrainedConfig) -> dict[str, Any]:
    """Random inputs of a batch of two for the encoder that `build_encoder` builds."""
    name, kind = config.model_type, KINDS[config.model_type]
    if name in PACKED:
        return _packed_images(config)
    if name in WAVEFORM:
        return _waveforms(config)
    if kind == "audio":
        return _spectrograms(config)
    if kind == "series":
        return _series(config)
    side = _side(_find(config, "image_size", _find(config, "crop_size", IMAGE_SIDE)))
    if name == "timm_wrapper":
        side = (config.model_args or {}).get("img_size", IMAGE_SIDE)
    if name == "pp_ocrv5_mobile_rec":
        # It pools three rows of the last stage
        side = 96
    if name == "depth_pro":
        # Its smallest scale is one patch
        side = int(config.patch_size / min(config.scaled_images_ratios))
    if kind == "image":
        return {"pixel_values": torch.rand(BATCH, 3, side, side)}
    frames = _find(config, "num_frames", FRAMES_PER_CLIP)
    if name == "xclip":
        # Its vision half takes the frames of all clips as one batch
        return {"pixel_values": torch.rand(BATCH * frames, 3, side, side)}
    key = "pixel_values" if name in ("timesformer", "videomae", "vivit") else "pixel_values_videos"
    return {key: torch.rand(BATCH, frames, 3, side, side)}


# timm families: small members, and the arguments that make them tiny.
TIMM_FAMILIES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 4},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 4},
    "vit_base_patch16_siglip_224": {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 4},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 2, "embed_dim": 64, "num_heads": 4},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 2, "embed_dim": 64, "num_heads": 4},
    "beit_base_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 4},
    "naflexvit_base_patch16_gap": {"depth": 2, "embed_dim": 64, "num_heads": 4},
    "hiera_tiny_224": {"img_size": 64, "embed_dim": 24, "stages": (1, 1, 1, 1)},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64,
        "window_size": 2,
        "embed_dim": 24,
        "depths": (1, 1, 1, 1),
        "num_heads": (2, 2, 4, 4),
    },
    "coatnet_nano_rw_224": {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": (32, 32, 64, 64)},
    # Its number and width of blocks are fixed
    "mixer_s32_224": {"img_size": 64, "mlp_ratio": (0.5, 0.25)},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "resnet10t": {"stem_width": 8, "channels": (16, 24, 32, 48)},
    "regnety_002": {},
    "test_efficientnet": {},
    "mobilenetv3_small_050": {},
}


def tiny_timm(architecture: str) -> TimmWrapperConfig:
    """The configuration of a tiny timm model of this family, with random weights."""
    return TimmWrapperConfig(architecture=architecture, model_args=TIMM_FAMILIES[architecture], dtype="float32")
