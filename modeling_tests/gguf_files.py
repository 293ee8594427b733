"""Tiny files in GGUF."""

from pathlib import Path

import numpy as np
import pytest


def write_language_model(file: Path) -> None:
    """A Llama of two layers with random weights, and a tokenizer of bytes."""
    gguf = pytest.importorskip("gguf")
    hidden, layers, words = 32, 2, ["<unk>", "<s>", "</s>", "a", "b", "ab", *(f"w{i}" for i in range(10))]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_merges(["a b"])
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    square, wide = (hidden, hidden), (48, hidden)
    shapes = dict(attn_norm=(hidden,), attn_q=square, attn_k=square, attn_v=square, attn_output=square)
    shapes |= dict(ffn_norm=(hidden,), ffn_gate=wide, ffn_up=wide, ffn_down=(hidden, 48))
    named = {"token_embd": (len(words), hidden), "output_norm": (hidden,), "output": (len(words), hidden)}
    named |= {f"blk.{i}.{name}": shape for i in range(layers) for name, shape in shapes.items()}
    rng = np.random.default_rng(0)
    for name, shape in named.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.2, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
