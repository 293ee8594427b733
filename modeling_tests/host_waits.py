"""Where the host waits for the device, found on a CPU: each operator whose result, or the shape of it, Python must know."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


# Numbers and truth values that Python reads, and results whose size depends on the data.
_WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "repeat_interleave"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class HostWaits(TorchDispatchMode):
    """Within, `found` counts them by the operator's name."""

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in _INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if name in _WAITING or by_mask:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def host_waits(call: Any, **inputs: Any) -> int:
    """How often the host waits in `call(**inputs)`."""
    with HostWaits() as waits:
        call(**inputs)
    return waits.found.total()
