"""Quantises the language model of a composite, and nothing else unless the user chooses the modules to skip."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig

from .configuration import AnyModalityConfig


# Quantisation configs have different names for the modules to skip.
_SKIP_FIELDS = ("llm_int8_skip_modules", "modules_to_not_convert")
# Attributes besides `hf_quantizer` that Transformers sets, and PEFT and accelerate read.
_MARKS = ("is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method")


@contextmanager
def reversible_conversions(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model does not know how its quantised weights were converted: to save them, Transformers would try to undo
    that, and fail. They are saved unchanged. Quantised stock models cannot be saved again for this reason.
    """
    conversions = model.__dict__.get("_weight_conversions")
    if conversions is None or getattr(model, "hf_quantizer", None) is None:
        yield
        return
    try:
        model.__dict__["_weight_conversions"] = [one for one in conversions if _is_reversible(one)]
        yield
    finally:
        model.__dict__["_weight_conversions"] = conversions


def _is_reversible(conversion: Any) -> bool:
    try:
        conversion.reverse_transform()
    except NotImplementedError:
        return False
    return True


def full_precision_modules(config: AnyModalityConfig) -> list[str]:
    """Full names of the modules that a quantised composite does not quantise: towers, aligners, the head."""
    return [*config.part_names[1:], "language_model.lm_head"]


def skip_towers_and_aligners(quantization: Any, config: AnyModalityConfig) -> Any:
    """A quantisation config that skips `full_precision_modules`, unless it already names modules to skip."""
    given = quantization if isinstance(quantization, dict) else vars(quantization)
    if given is quantization:
        quantization = AutoQuantizationConfig.from_dict(given)
    for field in _SKIP_FIELDS:
        if hasattr(quantization, field) and given.get(field) is None:
            setattr(quantization, field, full_precision_modules(config))
    return quantization


def adopt_quantization(model: PreTrainedModel, language_model: PreTrainedModel) -> None:
    """Marks a composite of a quantised language model as quantised, as if it had been loaded that way.

    After saving and loading, the same modules are quantised; PEFT and accelerate find their attributes.
    """
    quantizer = getattr(language_model, "hf_quantizer", None)
    if quantizer is None:
        return
    if quantizer.quantization_config.quant_method == "gguf" and not getattr(quantizer, "packed_modules", None):
        # Dequantised weights from GGUF are ordinary ones. Transformers still marks them as quantised, and would not save
        # them.
        quantizer.remove_quantization_config(language_model)
        return
    quantization = copy.deepcopy(quantizer.quantization_config)
    for field in _SKIP_FIELDS:
        if hasattr(quantization, field):
            own = getattr(quantization, field) or getattr(quantizer, "modules_to_not_convert", None) or []
            whole = full_precision_modules(model.config)  # ty: ignore[invalid-argument-type]  a composite's
            kept = [*whole, *(f"language_model.{name}" for name in own)]
            setattr(quantization, field, list(dict.fromkeys(kept)))
    model.config.quantization_config = quantization
    model.hf_quantizer = quantizer
    for mark in _MARKS:
        if hasattr(language_model, mark):
            setattr(model, mark, getattr(language_model, mark))
    if hasattr(language_model.config, "quantization_config"):
        del language_model.config.quantization_config  # only one copy, which `dequantize` removes


def keep_gradients(model: nn.Module) -> None:
    """Keeps 4-bit weights unpacked. On CPUs that multiply bfloat16, bitsandbytes packs them at the first inference. Packed
    weights silently give no gradients, and need rows in multiples of a block."""
    modules: Any = model.modules()
    for module in modules:
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
            module.state_dict()  # unpacks them


def plan_four_bits(language_model: PreTrainedModel) -> None:
    """Replaces the layers of a model on the meta device that `load_in_4bit` would quantise (NF4) by quantised ones."""
    quantizer = AutoHfQuantizer.from_config(BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))
    quantizer.validate_environment()
    quantizer.preprocess_model(language_model, device_map=None)


def four_bit_bytes(weight: Any) -> int:
    """Bytes of a weight that bitsandbytes has quantised: half a byte per number; a float32 per block, or a byte if these are
    quantised too, in blocks of 256; and the tables of the codes' values."""
    blocks = -(-weight.numel() // weight.blocksize)
    codes = 16 * 4
    if weight.compress_statistics:
        return -(-weight.numel() // 2) + blocks + -(-blocks // 256) * 4 + 256 * 4 + codes
    return -(-weight.numel() // 2) + blocks * 4 + codes
