"""vLLM's entry point (`vllm.general_plugins`): its Transformers backend finds the composite without remote code.

The backend looks an architecture up in `transformers` by name, asks the class whether it is compatible, and builds the
headless model by `AutoModel.from_config`, with a head of its own. It reads images, videos and audio, and no other
modality; those are served by `anymodality serve`, or given to vLLM as prompt embeddings.
"""

import transformers

from .. import AnyModalityForCausalLM


def register() -> None:
    """Importing this module has registered the Auto classes; vLLM calls this in each of its processes."""
    transformers.AnyModalityForCausalLM = AnyModalityForCausalLM  # type: ignore[unresolved-attribute]
