"""The model types of the image, video, audio and time-series encoders that `AutoModel` knows."""

# Encoders of whole images: one tensor (batch, channels, height, width).
IMAGE = (
    "align altclip aimv2_vision_model beit bit blip chinese_clip_vision_model clip_vision_model clipseg convnext "
    "convnextv2 cvt data2vec-vision deit depth_pro dinat dinov2 dinov2_with_registers dinov3_convnext dinov3_vit "
    "donut-swin dpt edgetam_vision_model efficientnet flava focalnet gemma3n_vision glpn granite_docling_vision "
    "groupvit hgnet_v2 hiera idefics3_vision ijepa internvl_vision levit maskformer-swin metaclip_2 mlcd "
    "mlcd_vision_model mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 owlv2 owlvit pixio pixtral poolformer "
    "pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_small_rec pp_ocrv6_tiny_rec pvt pvt_v2 qianfan_ocr_vision "
    "radio regnet resnet sam2_hiera_det_model sam2_vision_model sam3_vision_model sam3_vit_model sam_hq_vision_model "
    "sam_vision_model sapiens2 segformer siglip_vision_model smolvlm_vision swiftformer swin swin2sr swinv2 textnet "
    "timm_backbone timm_wrapper tipsv2_vision_model uvdoc vit vit_mae vit_msn vitdet yolos"
).split()
# Encoders of images cut into patches beforehand: the patches, and the grid that they come from.
PACKED = (
    "cohere_compass_vision cosmos3_edge_vision exaone4_5_vision gemma4_vision glm4v_moe_vision glm4v_vision "
    "glm5_next_vision glm_image_vision glm_ocr_vision hunyuan_vl_vision inkling2_vision kimi_k25_vision "
    "lfm3_vl_vision minicpm_ocr_vision minicpmv4_7_vision muse_glimmer_vision muse_spark_vision qwen2_5_vl_vision "
    "qwen3_5_moe_vision qwen3_5_vision qwen3_vl_moe_vision qwen3_vl_vision qwen4_exp_vision siglip2_vision_model "
    "video_llama_3_vision"
).split()
VIDEO = "pe_video_encoder timesformer videomae videoprism_vision_model vivit vjepa2 xclip".split()
WAVEFORM = (
    "dac data2vec-audio encodec higgs_audio_v2_tokenizer hubert mimi mimi_encoder moonshine moonshine_streaming "
    "muse_spark_audio neucodec pe_audio_encoder pocket_tts_audio_tokenizer pocket_tts_audio_tokenizer_encoder sew "
    "sew-d unispeech unispeech-sat vibevoice_acoustic_tokenizer vibevoice_acoustic_tokenizer_encoder wav2vec2 "
    "wav2vec2-conformer wavlm xcodec xcodec2"
).split()
SPECTROGRAM = (
    "audio-spectrogram-transformer audioflamingo3_encoder canary clap cohere_asr fun_asr_nano_encoder gemma3n_audio "
    "gemma4_audio glmasr_encoder granite_speech5_encoder lasr_encoder moss_transcribe_diarize_audio "
    "nemotron3_5_transcribe_asr_audio nemotron3_5_transcribe_audio nemotron3_diarization nemotron3_diarization_audio "
    "nemotron_asr_streaming_encoder parakeet_encoder qwen2_audio_encoder qwen3_asr_encoder seamless_m4t "
    "seamless_m4t_v2 speech_to_text voxtral_encoder voxtral_realtime_encoder wav2vec2-bert whisper"
).split()
# Of these, the ones that take (batch, bins, frames); the others take (batch, frames, bins).
CHANNELS_FIRST = (
    "glmasr_encoder moss_transcribe_diarize_audio qwen2_audio_encoder voxtral_encoder voxtral_realtime_encoder whisper"
).split()
SERIES = "autoformer informer patchtsmixer patchtst time_series_transformer timesfm timesfm2_5".split()

# Kind of encoder -> model types.
ENCODERS: dict[str, list[str]] = {
    "image": IMAGE + PACKED,
    "video": VIDEO,
    "audio": WAVEFORM + SPECTROGRAM,
    "series": SERIES,
}
KINDS: dict[str, str] = {name: kind for kind, names in ENCODERS.items() for name in names}

# Model types with another main input than text that are no encoders, and why. (Composites whose towers are listed by
# themselves are not repeated here.)
_DETECTOR = "detector or segmenter: gives one vector for each query, not for each place of the image"
_HEAD = "has a recognition head; its encoder is listed by itself"
_DECODER = "decoder half of an audio codec"
_COMPOSITE = "multimodal composite with a language model or a text encoder"
_PROMPTED = "segments what a prompt asks for; its vision encoder is listed by itself, if it has a model type"
NOT_ENCODERS: dict[str, str] = {
    **dict.fromkeys(
        (
            "conditional_detr d_fine dab-detr deformable_detr deimv2 detr lw_detr mask2former maskformer oneformer "
            "pp_doclayout_v3 pp_doclayout_v4 pp_ocrv6_medium_det pp_ocrv6_small_det rf_detr rt_detr rt_detr_v2 "
            "table-transformer"
        ).split(),
        _DETECTOR,
    ),
    **dict.fromkeys(
        (
            "granite_speech5_ctc lasr_ctc nemotron3_5_asr nemotron_asr_streaming parakeet_ctc parakeet_rnnt "
            "parakeet_tdt"
        ).split(),
        _HEAD,
    ),
    **dict.fromkeys(
        ("mimi_decoder pocket_tts_audio_tokenizer_decoder univnet vibevoice_acoustic_tokenizer_decoder").split(),
        _DECODER,
    ),
    **dict.fromkeys(
        (
            "blip-2 grounding-dino instructblip instructblipvideo kosmos-2 mm-grounding-dino omdet-turbo pi0 "
            "videoprism"
        ).split(),
        _COMPOSITE,
    ),
    **dict.fromkeys(
        (
            "edgetam edgetam_video sam sam2 sam2_video sam3 sam3_lite_text sam3_tracker sam3_tracker_video "
            "sam3_video sam_hq seggpt"
        ).split(),
        _PROMPTED,
    ),
    **dict.fromkeys(["efficientloftr", "lightglue"], "matches the key points of a pair of images"),
    "decision_transformer": "takes the states and actions of an agent",
    "mgp-str": "text recognizer: gives characters, not features",
    "muse_glimmer_assistant": "drafts tokens for a larger model",
    "nemotron3_5_transcribe_word_timestamp": "takes the hidden states of another encoder",
    "pe_audio_video_encoder": "takes sound and video at once; both its halves are listed by themselves",
    "perceiver": "takes any array; needs a preprocessor of the modality that `AutoModel` does not build",
    "sam3_lite_text_text_model": "text encoder",
    "speecht5": "built without the prenet that takes waveforms; its encoder takes hidden states",
}

# Two-tower models whose encoder has no model type of its own that `AutoModel` knows -> where it is.
HALVES: dict[str, str] = {
    **dict.fromkeys("align altclip blip clipseg groupvit metaclip_2 owlv2 owlvit xclip".split(), "vision_model"),
    "clap": "audio_model",
    "flava": "image_model",
    **dict.fromkeys(["seamless_m4t", "seamless_m4t_v2"], "speech_encoder"),
}
