"""Silences messages of other libraries that users of this package cannot act on. Imported before all else."""

import logging
import warnings


# Logger -> a text that identifies the message.
_LOGGED = {
    # Transformers imports torchao, which registers its enums as torch wanted it before 2.14.
    "torch.utils._pytree": "is an Enum subclass",
    # PEFT imports bitsandbytes. Without this kernel from the Hub, bitsandbytes uses its own.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # This package does without torchcodec.
    "transformers.utils.import_utils": "torchcodec loaded but could not load FFmpeg",
}
for _logger, _text in _LOGGED.items():
    logging.getLogger(_logger).addFilter(lambda record, text=_text: text not in record.getMessage())

# PEFT asks for a name that Transformers 5.24 has renamed.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
