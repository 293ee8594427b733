"""JSON, and the headers of weight files."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


# safetensors' name of a dtype -> torch's name (torch has no dtype of 6 bits), and bits per number.
DTYPES = {
    "BOOL": ("bool", 8),
    **{f"I{bits}": (f"int{bits}", bits) for bits in (8, 16, 32, 64)},
    **{f"U{bits}": (f"uint{bits}", bits) for bits in (8, 16, 32, 64)},
    **{f"F{bits}": (f"float{bits}", bits) for bits in (16, 32, 64)},
    "BF16": ("bfloat16", 16),
    "C64": ("complex64", 64),
    "F4": ("float4_e2m1fn_x2", 4),
    "F6_E2M3": ("float6_e2m3", 6),
    "F6_E3M2": ("float6_e3m2", 6),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
}
_LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
# Name, name of its dtype in torch, number of values, number of bytes.
StoredTensor = tuple[str, str, int, int]


def read_json(file: str | Path) -> Any:
    """Raises ValueError, which names the file, if it is not JSON."""
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}.") from error


def shard_names(index: str | Path) -> list[str]:
    """The files that an index (`model.safetensors.index.json`) spreads tensors over."""
    found = read_json(index)
    names = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index}: `weight_map` must be a table of tensors and the files that they are in.")
    return sorted(set(names.values()))


def stored_tensors(file: str | Path) -> list[StoredTensor]:
    """The tensors of a safetensors file; only its header is read. Raises ValueError if it is cut off, or in another
    format."""
    try:
        with open(file, "rb") as content:
            size, length = os.fstat(content.fileno()).st_size, int.from_bytes(content.read(8), "little")
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            return list(_tensors(json.loads(content.read(length)), size - 8 - length))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged, or is not a safetensors file ({error}).") from error


def _tensors(header: dict[str, Any], size: int) -> Iterator[StoredTensor]:
    """The tensors of a header, which must describe all `size` bytes after it."""
    place = 0
    header.pop("__metadata__", None)
    for name, one in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = one["data_offsets"]
        dtype, bits = DTYPES[one["dtype"]]
        count = math.prod(one["shape"])
        if begin != place or count * bits != 8 * (end - begin):
            raise ValueError(f"{name} lies elsewhere than its header says")
        yield name, dtype, count, end - begin
        place = end
    if place != size:
        raise ValueError(f"{size} bytes of weights, and a header that tells of {place}")
