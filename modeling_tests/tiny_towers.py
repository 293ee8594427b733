"""Tiny configurations and inputs of the image, video, audio and time-series encoders that `AutoModel` knows."""

from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig, TimmWrapperConfig

from modeling_tests.tiny_configs import shrink


BATCH = 2
# Images are square, of this side where the configuration does not say otherwise.
IMAGE_SIDE = 64
FRAMES_PER_CLIP = 4
# Samples of a waveform, and frames of a spectrogram, where the encoder takes any number of them.
SAMPLES, SPECTRA = 3840, 64

# Encoders of whole images: one tensor (batch, channels, height, width).
_IMAGE = (
    "align altclip aimv2_vision_model beit bit blip chinese_clip_vision_model clip_vision_model clipseg convnext "
    "convnextv2 cvt data2vec-vision deit depth_pro dinat dinov2 dinov2_with_registers dinov3_convnext dinov3_vit "
    "donut-swin dpt edgetam_vision_model efficientnet flava focalnet gemma3n_vision glpn granite_docling_vision groupvit "
    "hgnet_v2 hiera idefics3_vision ijepa internvl_vision levit maskformer-swin metaclip_2 mlcd mlcd_vision_model "
    "mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 owlv2 owlvit pixio pixtral poolformer pvt pvt_v2 "
    "qianfan_ocr_vision radio regnet resnet sam2_hiera_det_model sam2_vision_model sam3_vision_model sam3_vit_model "
    "sam_hq_vision_model sam_vision_model sapiens2 segformer siglip_vision_model smolvlm_vision swiftformer swin "
    "swin2sr swinv2 textnet timm_backbone timm_wrapper tipsv2_vision_model uvdoc vit vit_mae vit_msn vitdet yolos"
).split()
# Encoders of images cut into patches beforehand: the patches, and the grid that they come from.
_PACKED = (
    "cohere_compass_vision cosmos3_edge_vision exaone4_5_vision gemma4_vision glm4v_moe_vision glm4v_vision "
    "glm5_next_vision glm_image_vision glm_ocr_vision hunyuan_vl_vision inkling2_vision kimi_k25_vision "
    "lfm3_vl_vision minicpm_ocr_vision minicpmv4_7_vision muse_glimmer_vision muse_spark_vision qwen2_5_vl_vision "
    "qwen3_5_moe_vision qwen3_5_vision qwen3_vl_moe_vision qwen3_vl_vision qwen4_exp_vision siglip2_vision_model "
    "video_llama_3_vision"
).split()
_VIDEO = "pe_video_encoder timesformer videomae videoprism_vision_model vivit vjepa2 xclip".split()
_WAVEFORM = (
    "dac data2vec-audio encodec higgs_audio_v2_tokenizer hubert mimi mimi_encoder moonshine moonshine_streaming "
    "muse_spark_audio neucodec pe_audio_encoder pocket_tts_audio_tokenizer pocket_tts_audio_tokenizer_encoder sew "
    "sew-d speecht5 unispeech unispeech-sat vibevoice_acoustic_tokenizer vibevoice_acoustic_tokenizer_encoder wav2vec2 "
    "wav2vec2-conformer wavlm xcodec xcodec2"
).split()
_SPECTROGRAM = (
    "audio-spectrogram-transformer audioflamingo3_encoder canary clap cohere_asr fun_asr_nano_encoder gemma3n_audio "
    "gemma4_audio glmasr_encoder granite_speech5_encoder lasr_encoder moss_transcribe_diarize_audio "
    "nemotron3_5_transcribe_asr_audio nemotron3_5_transcribe_audio nemotron3_diarization nemotron3_diarization_audio "
    "nemotron_asr_streaming_encoder parakeet_encoder qwen2_audio_encoder qwen3_asr_encoder seamless_m4t "
    "seamless_m4t_v2 speech_to_text voxtral_encoder voxtral_realtime_encoder wav2vec2-bert whisper"
).split()
_SERIES = "autoformer informer patchtsmixer patchtst time_series_transformer timesfm timesfm2_5".split()

# Kind of encoder -> model types.
ENCODERS: dict[str, list[str]] = {
    "image": _IMAGE + _PACKED,
    "video": _VIDEO,
    "audio": _WAVEFORM + _SPECTROGRAM,
    "series": _SERIES,
}
KINDS: dict[str, str] = {name: kind for kind, names in ENCODERS.items() for name in names}

# Two-tower models whose encoder has no model type of its own that `AutoModel` knows -> where it is.
HALVES: dict[str, str] = {
    **dict.fromkeys("align altclip blip clipseg groupvit metaclip_2 owlv2 owlvit xclip".split(), "vision_model"),
    "clap": "audio_model",
    "flava": "image_model",
    **dict.fromkeys(["seamless_m4t", "seamless_m4t_v2"], "speech_encoder"),
}

_RESNET = {"architecture": "resnet10t", "model_args": {"stem_width": 8, "channels": (8, 16, 24, 32)}}
# Where the general rule fails: what to set, and why.
SPECIAL: dict[str, dict[str, Any]] = {
}


def encoder_types() -> list[str]:
    """The model types of all encoders of other modalities than text."""
    return list(KINDS)


def tiny_encoder(model_type: str) -> PreTrainedConfig:
    """A configuration of this type with which `build_encoder` builds a tiny encoder."""
    return shrink(CONFIG_MAPPING[model_type](), vocab_size=96, **SPECIAL.get(model_type, {}))


def build_encoder(config: PreTrainedConfig) -> nn.Module:
    """The encoder of a configuration: the whole model, or the half of it that encodes the modality."""
    model = AutoModel.from_config(config)
    if config.model_type in HALVES:
        return getattr(model, HALVES[config.model_type])
    return model.get_encoder() if config.is_encoder_decoder else model


def _image_side(config: PreTrainedConfig) -> int:
    for part in (config, getattr(config, "vision_config", None), getattr(config, "image_config", None)):
        side = getattr(part, "image_size", None)
        if side is not None:
            return side if isinstance(side, int) else side[0]
    return IMAGE_SIDE


def dummy_inputs(config: PreTrainedConfig) -> dict[str, Any]:
    """Random inputs of a batch of two for the encoder of a tiny configuration."""
    name, kind = config.model_type, KINDS[config.model_type]
    if kind == "image":
        if name in _PACKED:
            return {}
        side = _image_side(config)
        return {"pixel_values": torch.rand(BATCH, getattr(config, "num_channels", 3), side, side)}
    if kind == "video":
        side = _image_side(config)
        return {"pixel_values": torch.rand(BATCH, FRAMES_PER_CLIP, 3, side, side)}
    if name in _WAVEFORM:
        return {"input_values": torch.rand(BATCH, SAMPLES)}
    if name in _SPECTROGRAM:
        return {"input_features": torch.rand(BATCH, 80, SPECTRA)}
    return {"past_values": torch.rand(BATCH, 64)}
