"""Forward hooks that stay on a module: none can be registered while torch.compile or torch.export traces a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class StandingHook:
    """A hook that acts only within `doing`."""

    def __init__(self):
        self.act: Callable[[Any], Any] | None = None

    def __call__(self, module: nn.Module, arguments: tuple, output: Any) -> Any:
        return None if self.act is None else self.act(output)

    @contextmanager
    def doing(self, act: Callable[[Any], Any]) -> Iterator[None]:
        """Within, `act` gets each output of the module; its result replaces the output, unless it is None."""
        self.act = act
        try:
            yield
        finally:
            self.act = None


def standing_hook(module: nn.Module) -> StandingHook:
    """The hook of this module, registered on the first call."""
    # Not by getattr: wrappers forward it to the inner module, whose output they may not use.
    if "standing_hook" not in module.__dict__:
        module.standing_hook = StandingHook()
        module.register_forward_hook(module.standing_hook)
    return module.standing_hook
