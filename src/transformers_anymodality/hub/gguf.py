"""Composites for llama.cpp: the image tower and the aligner in its format (`mmproj`), the language model as a folder that
its own converter reads.

llama.cpp runs LLaVA's layout: patches of a CLIP or SigLIP tower, two layers with a GELU between, a token for each patch.
Everything else is refused.
"""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from ..aligners.linear import LinearAligner
from ..aligners.mlp import MlpAligner
from ..model.modeling import AnyModalityForCausalLM
from ..processing.chat import text_template
from ..processing.processor import AnyModalityProcessor
from ..utils.files import check_new
from ..utils.imports import require


# Of a tower's config: whether it puts its last norm on its features, and whether a class token stands before the patches.
_TOWERS = {"clip_vision_model": (False, True), "siglip_vision_model": (True, False)}
# Of a tower's and an aligner's non-linearities, those that llama.cpp has.
_TOWER_ACTS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new")
_ALIGNER_ACTS = _TOWER_ACTS[1:]


def export(
    model: AnyModalityForCausalLM,
    processor: AnyModalityProcessor,
    output: str | Path,
    dtype: torch.dtype = torch.float16,
    converter: str | Path | None = None,
) -> list[Path]:
    """
    Args:
        output: folder to write; must not exist.
        dtype: of matrices, float16 or float32; norms and biases are float32.
        converter: `convert_hf_to_gguf.py` of llama.cpp, which then makes `language_model.gguf`.

    Returns:
        What was written: `mmproj.gguf`, and the language model's folder or file.

    Raises:
        ValueError: llama.cpp cannot run this composite; nothing is written then. Or its converter failed.
    """
    check(model, processor)
    tensors = {**_tower_tensors(model), **_aligner_tensors(model.aligner("image"))}
    if converter is not None and not Path(converter).is_file():
        raise ValueError(f"{converter} is not a file: llama.cpp's convert_hf_to_gguf.py is expected.")
    folder = Path(output)
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_mmproj(model, processor, tensors, folder / "mmproj.gguf", dtype)
    language, file = folder / "language_model", folder / "language_model.gguf"
    model.language_model.save_pretrained(language)
    tokenizer = copy.deepcopy(processor.tokenizer)
    # llama.cpp puts its own marks for images into texts, and its Jinja does not read ours.
    tokenizer.chat_template = text_template(processor.resolve_chat_template(), {"image": processor.image_token})
    tokenizer.save_pretrained(language)
    if converter is None:
        return [folder / "mmproj.gguf", language]
    kind = "f32" if dtype == torch.float32 else "f16"
    command = [sys.executable, str(converter), str(language), "--outfile", str(file), "--outtype", kind]
    if subprocess.run(command).returncode:
        raise ValueError(f"llama.cpp's converter failed; see above. The language model is in {language}.")
    return [folder / "mmproj.gguf", file]


def check(model: AnyModalityForCausalLM, processor: AnyModalityProcessor) -> None:
    """Raises ValueError for the first thing that llama.cpp does not run as Transformers does."""
    if not isinstance(model, AnyModalityForCausalLM):
        raise ValueError(f"{type(model).__name__} is not a composite: merge adapters first (`merge_and_unload`).")
    config = model.config
    if others := [name for name in config.modalities if name != "image"]:
        raise ValueError(f"Modalities {', '.join(others)}: this export writes only images.")
    settings, tower, aligner = config.modalities["image"], config.tower_config("image"), model.aligner("image")
    own: Any = aligner.config
    if tower.model_type not in _TOWERS:
        raise ValueError(f"Tower {tower.model_type!r}: this export writes only {' and '.join(_TOWERS)}.")
    if not isinstance(aligner, (LinearAligner, MlpAligner)):
        raise ValueError(f"Aligner {own.model_type!r}: this export writes only linear and mlp.")
    _, class_token = _TOWERS[tower.model_type]
    wrong = {
        'select_feature: llama.cpp reads only patches; compose with "select_feature": "patches".': (
            settings.select_feature == "pooled" or (class_token and settings.select_feature != "patches")
        ),
        "num_tokens: llama.cpp has a token for each patch.": own.num_tokens is not None,
        "pool: llama.cpp's LLaVA does not merge patches.": getattr(own, "pool", "none") != "none",
        "sum_neighbours: llama.cpp does not add tokens.": own.sum_neighbours,
        f"hidden_act of the tower is {tower.hidden_act!r}: llama.cpp has only GELU.": tower.hidden_act
        not in _TOWER_ACTS,
        f"hidden_act of the aligner is {own.hidden_act!r}: llama.cpp has only GELU.": (
            isinstance(aligner, MlpAligner) and own.hidden_act not in _ALIGNER_ACTS
        ),
        "intermediate_size of the tower equals its hidden_size: llama.cpp would swap its layers.": (
            tower.intermediate_size == tower.hidden_size
        ),
        "The language model reads ids for more than their embeddings, which llama.cpp does not.": config.reads_input_ids,
    }
    for message, applies in wrong.items():
        if applies:
            raise ValueError(message)
    prepares = processor.sub_processor("image")
    if not getattr(prepares, "do_rescale", True) or abs(getattr(prepares, "rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError("The image processor does not scale pixels to 0 to 1, as llama.cpp does.")


def _write_mmproj(
    model: AnyModalityForCausalLM,
    processor: AnyModalityProcessor,
    tensors: dict[str, torch.Tensor],
    path: Path,
    dtype: torch.dtype,
) -> None:
    gguf = require("gguf")
    config, prepares = model.config.tower_config("image"), processor.sub_processor("image")
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("v.blk."))
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(config.image_size)
    writer.add_vision_patch_size(config.patch_size)
    writer.add_vision_embedding_length(config.hidden_size)
    writer.add_vision_feed_forward_length(config.intermediate_size)
    writer.add_vision_block_count(layers)
    writer.add_array("clip.vision.feature_layer", [layers])  # all that there are; llama.cpp else leaves out the last
    writer.add_vision_head_count(config.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(config.layer_norm_eps)
    writer.add_vision_projection_dim(model.aligner("image").config.hidden_size)
    normalises = getattr(prepares, "do_normalize", True)
    writer.add_vision_image_mean(list(prepares.image_mean) if normalises else [0.0] * 3)
    writer.add_vision_image_std(list(prepares.image_std) if normalises else [1.0] * 3)
    if config.hidden_act != "quick_gelu":
        writer.add_vision_use_gelu(True)
    for name, tensor in tensors.items():
        matrix = tensor.ndim > 1 and name != "v.position_embd.weight"
        writer.add_tensor(name, tensor.to(dtype if matrix else torch.float32).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tower_tensors(model: AnyModalityForCausalLM) -> dict[str, torch.Tensor]:
    """By llama.cpp's names for them."""
    gguf, tower = require("gguf"), model.tower("image")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, tower.config.num_hidden_layers)
    normed = _TOWERS[tower.config.model_type][0] and model.config.modalities["image"].select_layer is None
    tensors = {}
    for key, tensor in tower.state_dict().items():
        name = names.get_name(f"vision_tower.vision_model.{key}", try_suffixes=(".weight", ".bias"))
        pooling = key.startswith("head.") or (key.startswith("post_layernorm.") and not normed)
        if name is None and not pooling:
            raise ValueError(f"`{key}` of the tower has no place in llama.cpp's layout.")
        if not pooling:
            tensors[name] = tensor.cpu().float()
    return tensors


def _aligner_tensors(aligner: Any) -> dict[str, torch.Tensor]:
    """Two layers with a GELU between. A single layer is written as two, exactly: gelu(x) - gelu(-x) = x."""
    if isinstance(aligner, MlpAligner):
        first, second = aligner.linear_1, aligner.linear_2
        layers = {"0": (first.weight, first.bias), "2": (second.weight, second.bias)}
    else:
        weight, bias = aligner.projection.weight, aligner.projection.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        whole = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        layers = {
            "0": (torch.cat([weight, -weight]), torch.cat([bias, -bias])),
            "2": (torch.cat([whole, -whole], dim=1), torch.zeros_like(bias)),
        }
    return {
        f"mm.{place}.{kind}": tensor.detach().cpu().float()
        for place, pair in layers.items()
        for kind, tensor in zip(("weight", "bias"), pair, strict=True)
    }
