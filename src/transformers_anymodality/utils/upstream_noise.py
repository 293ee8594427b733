"""Keeps other libraries from logging, while they are imported, what no user can act on. Imported before all else."""

import logging


_NOISE = {
    # Transformers imports torchao, which registers its enums as torch wanted it before 2.14.
    "torch.utils._pytree": "is an Enum subclass",
    # PEFT imports bitsandbytes. Without this kernel, which would come from the Hub, it uses its own.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}
for _logger, _text in _NOISE.items():
    logging.getLogger(_logger).addFilter(lambda record, text=_text: text not in record.getMessage())
