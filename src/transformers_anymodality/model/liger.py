"""Liger's kernels for the language model of a composite, also with the Trainer's `use_liger_kernel`."""

import inspect
from types import ModuleType
from typing import Any

from .configuration import AnyModalityConfig


def register(liger: ModuleType) -> None:
    """Adds composites to Liger's table of functions per model type, which Transformers reads.

    Args:
        liger: `liger_kernel.transformers.monkey_patch`.
    """
    table = liger.MODEL_TYPE_TO_APPLY_LIGER_FN

    def apply(model: Any, **kwargs: Any) -> None:
        language = model.language_model
        if language.config.model_type not in table:
            raise ValueError(
                f"Liger has no kernels for {type(language).__name__} ({language.config.model_type!r}): leave out "
                "`use_liger_kernel`."
            )
        table[language.config.model_type](model=language, **kwargs)

    # Liger passes on the arguments in the signature: all that it has for any model.
    names = {name for function in table.values() for name in inspect.signature(function).parameters}
    known = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in sorted(names)]
    entry: Any = apply
    entry.__signature__ = inspect.Signature(known)
    table[AnyModalityConfig.model_type] = entry
