"""What registered aligners need to be tiny."""

QFORMER = {"depth": 2, "num_heads": 2, "qformer_hidden_size": 16, "intermediate_size": 24, "num_tokens": 3}
SPEECH = {"num_tokens": 9, "depth": 1, "num_heads": 2, "bert_hidden_size": 16, "intermediate_size": 24, "dropout": 0.0}
# What an aligner needs beyond the sizes that all have, to be tiny.
SMALL = {
    "linear": [{}, {"num_tokens": 3}],
    "macaw": [
        {"align_heads": 4, "attended_rows": 9},
        {"align_heads": 20, "conv_kernel": 6, "conv_stride": 3, "attention_dropout": 0.0},
        {"align_heads": 2, "self_attention": "temporal", "attention_heads": 2, "projection_size": 8},
        {"align_heads": 2, "self_attention": "long", "attention_heads": 2, "conv_kernel": 3, "conv_stride": 2},
    ],
    "mlp": [{}, {"pool": "stride", "pool_size": 3}, {"pool": "stride", "num_tokens": 2}],
    "perceiver_resampler": [
        {"depth": 2, "num_heads": 2, "head_dim": 8, "num_tokens": 3},
        {"depth": 1, "num_heads": 2, "head_dim": 8, "num_tokens": 3, "frame_embeddings": 2, "time_embeddings": 1},
        {"depth": 1, "num_heads": 2, "head_dim": 8, "num_tokens": 3, "per_frame": True, "time_embeddings": 2},
    ],
    "qformer": [QFORMER, {**QFORMER, "per_frame": True, "feature_norm_eps": 1e-5}],
    "speech_interface": [
        {**SPEECH, "token_size": 12},
        {**SPEECH, "token_size": 10, "cif": {}},
        {"num_tokens": 9, "token_size": 12, "bert": False, "cif": {"weights": "dense", "threshold": 0.5}},
    ],
    "visual_abstractor": [
        {"depth": 2, "num_heads": 2, "intermediate_size": 10, "num_tokens": 3},
        {"depth": 2, "num_heads": 2, "intermediate_size": 10, "num_tokens": 3, "temporal": True},
    ],
}
