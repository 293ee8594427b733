"""A sub-processor for each tiny encoder: a stock one, of the sizes that the encoder's configuration wants."""

from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from modeling_tests.tiny_tower_types import KINDS, PACKED, WAVEFORM
from modeling_tests.tiny_towers import SPECTRA, dummy_inputs


_RATE = 16000
# 64 spectra of a sound of one second.
_WHISPER = {"chunk_length": 1, "hop_length": _RATE // SPECTRA}

# Model type of an encoder of waveforms -> its feature extractor, where that pads or scales in a way of its own.
_WAVEFORMS = {
    **dict.fromkeys(["dac", "higgs_audio_v2_tokenizer", "xcodec"], "DacFeatureExtractor"),
    "muse_spark_audio": "MuseSparkFeatureExtractor",
    "neucodec": "NeuCodecFeatureExtractor",
    "pe_audio_encoder": "PeAudioFeatureExtractor",
    "pocket_tts_audio_tokenizer": "PocketTTSFeatureExtractor",
    "pocket_tts_audio_tokenizer_encoder": "PocketTTSFeatureExtractor",
    "vibevoice_acoustic_tokenizer": "VibeVoiceAcousticTokenizerFeatureExtractor",
    "vibevoice_acoustic_tokenizer_encoder": "VibeVoiceAcousticTokenizerFeatureExtractor",
    "xcodec2": "Xcodec2FeatureExtractor",
}
# Model type of an encoder of spectrograms -> its feature extractor and settings. All take `feature_size` bins.
_SPECTROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(
        "glmasr_encoder moss_transcribe_diarize_audio qwen2_audio_encoder voxtral_encoder whisper".split(),
        ("WhisperFeatureExtractor", _WHISPER),
    ),
    "audioflamingo3_encoder": ("WhisperFeatureExtractor", {**_WHISPER, "return_attention_mask": True}),
    "qwen3_asr_encoder": ("WhisperFeatureExtractor", {"chunk_length": 1, "return_attention_mask": True}),
    "voxtral_realtime_encoder": ("WhisperFeatureExtractor", _WHISPER),
    "audio-spectrogram-transformer": ("ASTFeatureExtractor", {"max_length": SPECTRA}),
    "clap": ("ClapFeatureExtractor", {"truncation": "rand_trunc", "max_length_s": 1, "hop_length": 768}),
    "speech_to_text": ("Speech2TextFeatureExtractor", {}),
    "fun_asr_nano_encoder": ("FunAsrNanoFeatureExtractor", {}),
    "gemma3n_audio": ("Gemma3nAudioFeatureExtractor", {}),
    "gemma4_audio": ("Gemma4AudioFeatureExtractor", {}),
    "granite_speech5_encoder": ("GraniteSpeech5FeatureExtractor", {}),
    "lasr_encoder": ("LasrFeatureExtractor", {}),
    **dict.fromkeys("seamless_m4t seamless_m4t_v2 wav2vec2-bert".split(), ("SeamlessM4TFeatureExtractor", {})),
    **dict.fromkeys("canary cohere_asr parakeet_encoder".split(), ("ParakeetFeatureExtractor", {})),
    **dict.fromkeys(
        (
            "nemotron3_5_transcribe_asr_audio nemotron3_5_transcribe_audio nemotron3_diarization "
            "nemotron3_diarization_audio nemotron_asr_streaming_encoder"
        ).split(),
        ("NemotronAsrStreamingFeatureExtractor", {}),
    ),
}
# These come with their number of bins.
_FIXED_BINS = (
    "FunAsrNanoFeatureExtractor Gemma3nAudioFeatureExtractor Gemma4AudioFeatureExtractor "
    "GraniteSpeech5FeatureExtractor SeamlessM4TFeatureExtractor"
).split()

# Model type, without "_vision", of an encoder of patches -> the model type whose image processor it has.
_IMAGES = {"glm4v_moe": "glm4v", "glm_ocr": "glm4v", "qwen3_vl_moe": "qwen3_vl"}
# Image processors that take other settings than Qwen2-VL's.
_SLICES = {"scale_resolution": 48, "downsample_mode": "4x"}
_PATCHES: dict[str, dict[str, Any]] = {
    "Gemma4ImageProcessor": {"max_soft_tokens": 70},
    "Kimi_K25ImageProcessor": {},
    "MiniCPMOcrImageProcessor": _SLICES,
    "MiniCPMV4_6ImageProcessor": _SLICES,
    "PixtralImageProcessor": {"size": {"longest_edge": 128}},
    "Siglip2ImageProcessor": {"max_num_patches": 16},
}

_VIDEO_PROCESSORS = {
    "timesformer": "TimesformerVideoProcessor",
    "videomae": "VideoMAEVideoProcessor",
    "vivit": "VivitVideoProcessor",
}


def _image_processor(config: PreTrainedConfig) -> Any:
    name = config.model_type
    if name not in (*PACKED, "pixtral"):
        side = dummy_inputs(config)["pixel_values"].shape[-1]
        return transformers.ViTImageProcessor(size={"height": side, "width": side})
    family = name.partition("_vision")[0]
    patch, merge = config.patch_size, getattr(config, "spatial_merge_size", getattr(config, "merge_size", 2))
    if (cls := IMAGE_PROCESSOR_MAPPING_NAMES.get(_IMAGES.get(family, family))["torchvision"]) in _PATCHES:
        return getattr(transformers, cls)(**{"patch_size": patch, **_PATCHES[cls]})
    if cls == "Inkling2ImageProcessor":
        return transformers.Inkling2ImageProcessor(size={"height": merge * patch, "width": merge * patch})
    frames = getattr(config, "temporal_patch_size", getattr(config, "patch_temporal", 1))
    pixels = {"shortest_edge": 32**2, "longest_edge": 128**2}
    settings = {} if cls == "MuseGlimmerImageProcessor" else {"size": pixels}
    return getattr(transformers, cls)(patch_size=patch, merge_size=merge, temporal_patch_size=frames, **settings)


def _video_processor(config: PreTrainedConfig) -> Any:
    name, side = config.model_type, next(iter(dummy_inputs(config).values())).shape[-1]
    cls = getattr(transformers, _VIDEO_PROCESSORS.get(name, "VJEPA2VideoProcessor"))
    size = {"height": side, "width": side}
    return cls(size=size, crop_size=size, do_sample_frames=False)


def _feature_extractor(config: PreTrainedConfig) -> Any:
    name, main = config.model_type, next(iter(dummy_inputs(config).values()))
    if name in WAVEFORM:
        default = "Wav2Vec2FeatureExtractor" if main.ndim == 2 else "EncodecFeatureExtractor"
        return getattr(transformers, _WAVEFORMS.get(name, default))()
    cls, settings = _SPECTROGRAMS[name]
    if cls not in _FIXED_BINS:
        bins = main.shape[1 if cls == "WhisperFeatureExtractor" else -1]
        settings = {"num_mel_bins" if cls == "ASTFeatureExtractor" else "feature_size": bins, **settings}
        if cls == "Speech2TextFeatureExtractor":
            settings["num_mel_bins"] = bins
    return getattr(transformers, cls)(**settings)


def tiny_processor(config: PreTrainedConfig) -> Any:
    """The sub-processor for an encoder of `tiny_encoder`; `None` for series, whose default serves."""
    kind = KINDS[config.model_type]
    if kind == "series":
        return None
    make = {"image": _image_processor, "video": _video_processor, "audio": _feature_extractor}[kind]
    return make(config)
