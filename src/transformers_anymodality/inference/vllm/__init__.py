"""vLLM's entry point (`vllm.general_plugins`): with it vLLM knows composites, without remote code.

vllm serve my-anymal --limit-mm-per-prompt '{"image": 2, "audio": 1}'
"""

from vllm import ModelRegistry

from ... import AnyModalityForCausalLM


def register() -> None:
    """vLLM calls this in each of its processes; importing this module has registered the Auto classes."""
    ModelRegistry.register_model(AnyModalityForCausalLM.__name__, f"{__name__}.model:VLLMComposite")
