"""Forward hooks that stay on a module: while torch.compile or torch.export traces a model, none can be registered."""

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
        """Within, `act` gets each output of the module, and what it returns replaces the output, unless that is None."""
        self.act = act
        try:
            yield
        finally:
            self.act = None


def standing_hook(module: nn.Module) -> StandingHook:
    """The one of this very module; registered when first asked for."""
    # Not by getattr: wrappers hand that on to the module within, whose output they may not use.
    if "standing_hook" not in module.__dict__:
        module.standing_hook = StandingHook()
        module.register_forward_hook(module.standing_hook)
    return module.standing_hook
