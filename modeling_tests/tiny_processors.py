"""A sub-processor for each tiny encoder: a stock one, of the sizes that the encoder's configuration wants."""

from typing import Any

import transformers
from transformers import PreTrainedConfig

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

_VIDEO_PROCESSORS = {
    "timesformer": "TimesformerVideoProcessor",
    "videomae": "VideoMAEVideoProcessor",
    "vivit": "VivitVideoProcessor",
}


def _image_processor(config: PreTrainedConfig) -> Any:
    name = config.model_type
    if name == "siglip2_vision_model":
        return transformers.Siglip2ImageProcessor(patch_size=config.patch_size, max_num_patches=16)
    if name in PACKED:
        return transformers.Qwen2VLImageProcessor(
            patch_size=getattr(config, "patch_size", 16), size={"shortest_edge": 64 * 64, "longest_edge": 64 * 64}
        )
    side = dummy_inputs(config)["pixel_values"].shape[-1]
    return transformers.ViTImageProcessor(size={"height": side, "width": side})


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
