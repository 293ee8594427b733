"""Quantises the language model of a composite, and nothing else unless the user chooses the modules to skip."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig

from .configuration import AnyModalityConfig


# Quantisation configs differ in how they call the modules that are left out.
_SKIP_FIELDS = ("llm_int8_skip_modules", "modules_to_not_convert")
# What Transformers leaves on a model beside `hf_quantizer`, and PEFT and accelerate read.
_MARKS = ("is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method")


@contextmanager
def reversible_conversions(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model forgets how its quantised weights were converted: Transformers would try to undo that to save
    them, and fail. They are saved as they are. Stock models that were loaded quantised cannot be saved again for this.
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
    """Full names of the modules that a quantised composite keeps as they are: towers, aligners, the head."""
    return [*config.part_names[1:], "language_model.lm_head"]


def skip_towers_and_aligners(quantization: Any, config: AnyModalityConfig) -> Any:
    """A quantisation config that leaves `full_precision_modules` out, unless it already names what to leave out."""
    given = quantization if isinstance(quantization, dict) else vars(quantization)
    if given is quantization:
        quantization = AutoQuantizationConfig.from_dict(given)
    for field in _SKIP_FIELDS:
        if hasattr(quantization, field) and given.get(field) is None:
            setattr(quantization, field, full_precision_modules(config))
    return quantization


def adopt_quantization(model: PreTrainedModel, language_model: PreTrainedModel) -> None:
    """A composite of a language model that was loaded quantised says so, as if it had been loaded so itself.

    Saved and loaded again, the same modules are quantised; PEFT and accelerate see what they look for.
    """
    quantizer = getattr(language_model, "hf_quantizer", None)
    if quantizer is None:
        return
    if quantizer.quantization_config.quant_method == "gguf" and not getattr(quantizer, "packed_modules", None):
        # Weights that were read from GGUF and unpacked are ordinary ones. Transformers marks them all the same, and would
        # not save them.
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
        del language_model.config.quantization_config  # said once, and removed once by `dequantize`


def keep_gradients(model: nn.Module) -> None:
    """Weights in 4 bits stay as they are. On CPUs that multiply bfloat16, bitsandbytes packs them at the first inference;
    packed, they pass on no gradients, without an error, and want rows in multiples of a block."""
    modules: Any = model.modules()
    for module in modules:
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
            module.state_dict()  # unpacks them


def plan_four_bits(language_model: PreTrainedModel) -> None:
    """Of a model on the meta device, the layers that `load_in_4bit` quantises (NF4) become those that it makes of them."""
    quantizer = AutoHfQuantizer.from_config(BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))
    quantizer.validate_environment()
    quantizer.preprocess_model(language_model, device_map=None)


def four_bit_bytes(weight: Any) -> int:
    """What a weight takes once bitsandbytes has quantised it: half a byte per number; a float32 for each block of them, or a
    byte where these are quantised too, in blocks of 256; and the tables that say what the codes mean."""
    blocks = -(-weight.numel() // weight.blocksize)
    codes = 16 * 4
    if weight.compress_statistics:
        return -(-weight.numel() // 2) + blocks + -(-blocks // 256) * 4 + 256 * 4 + codes
    return -(-weight.numel() // 2) + blocks * 4 + codes
