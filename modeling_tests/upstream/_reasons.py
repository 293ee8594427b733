"""Every upstream test that does not run on our classes, with the reason: name or pattern of the test -> reason.

A test that is skipped without an entry here fails, and so does an entry that matches no upstream test any more.
"""

from fnmatch import fnmatchcase


# Left out by us.
LEFT_OUT = {
    "test_model_base_model_prefix": (
        "a composite holds its language model whole, head included, so that any kind of head works; there is no "
        "headless composite inside of it"
    ),
    "test_apply_chat_template_video_frame_sampling": (
        "the number of a video's frames is part of the model, chosen when it is composed, and not of a call"
    ),
    "test_chat_template_audio_from_video": (
        "the sound of a video is given as a medium of its own, and not taken out of the video's file"
    ),
}

# Skipped by upstream, on a condition that holds here.
NOT_MET = {
    # what this machine has
    "test_can_load_with_device_context_manager": "needs an accelerator",
    "test_can_load_with_global_device_set": "needs an accelerator",
    "test_cpu_offload": "needs an accelerator",
    "test_disk_offload_*": "needs an accelerator",
    "test_flex_attention_with_grads": "needs an accelerator",
    "test_sdpa_can_compile_dynamic": "needs an accelerator",
    "test_sdpa_can_dispatch_on_flash": "needs an accelerator",
    "test_model_parallelism": "needs several accelerators",
    "test_apply_chat_template_audio": "needs librosa, by which upstream's test reads its sound",
    "test_chat_template_audio_sampling_rate": "needs librosa, by which upstream's test reads its sound",
    "test_flash_attn_[234]_*": "needs FlashAttention",
    "test_flash_attn_kernels_*": "needs the kernels library, or Apple's GPUs",
    "test_kernels_can_load_without_crashing": "needs the kernels library",
    "test_resize_*_with_deepspeed*": "needs DeepSpeed",
    "test_torch_compile_for_training": "needs an accelerator, RUN_SLOW=1 and a model of text alone",
    # what our models are not
    "test_encoder_decoder_loss_no_double_shift": "the model is no encoder-decoder",
    "test_sdpa_can_dispatch_non_composite_models": "the model is a composite",
    "test_eager_matches_batched_and_grouped_inference_*": "the tiny language models have no experts",
    "test_moe_models_record_router_logits": "the tiny language models have no experts",
    "test_output_router_logits_from_config": "the tiny language models have no experts",
    "test_keep_in_fp32_modules": "no part of the tiny composites is kept in float32",
    "test_keep_in_fp32_modules_exist": "no part of the tiny composites is kept in float32",
    "test_keep_in_fp32_modules_strict_also_hardcode_fp32": "no part of the tiny composites is kept in float32",
    "test_bc_cache_name_forward": "the cache is an argument of the language model's, which the composite hands through",
    "test_model_rope_with_partial_rotation": "the tiny language models rotate all of a head",
    "test_vision_axial_rope": "the tiny towers have no axial rotary embeddings",
    "test_resize_position_vector_embeddings": "position embeddings are the parts' own; the composite has none",
    "test_reverse_loading_mapping": "the checkpoints of the tiny parts are stored under the names of their modules",
    "test_sliding_window_mask": "the composite has no sliding window; its language model's own is below its config",
    # pipelines of other tasks
    "test_pipeline_audio_classification*": "another task",
    "test_pipeline_automatic_speech_recognition*": "another task",
    "test_pipeline_depth_estimation*": "another task",
    "test_pipeline_document_question_answering*": "another task",
    "test_pipeline_fill_mask*": "another task",
    "test_pipeline_image_classification*": "another task",
    "test_pipeline_image_feature_extraction*": "another task",
    "test_pipeline_image_segmentation*": "another task",
    "test_pipeline_mask_generation*": "another task",
    "test_pipeline_object_detection*": "another task",
    "test_pipeline_table_question_answering*": "another task",
    "test_pipeline_text_classification*": "another task",
    "test_pipeline_text_to_audio*": "another task",
    "test_pipeline_token_classification*": "another task",
    "test_pipeline_video_classification*": "another task",
    "test_pipeline_zero_shot*": "another task",
}
REASONS = {**LEFT_OUT, **NOT_MET}


def reason_for(name: str, table: dict[str, str] = REASONS) -> str | None:
    return next((reason for pattern, reason in table.items() if fnmatchcase(name, pattern)), None)


def stale(names: set[str]) -> list[str]:
    """Patterns that match none of the names."""
    return [pattern for pattern in REASONS if not any(fnmatchcase(name, pattern) for name in names)]
