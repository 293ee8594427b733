"""Published systems, a shelf each: `compose(**pandagpt())`. What only one of them needs stands with it."""

from transformers.utils import is_torchvision_available, is_vision_available

from ..conversion import CONVERSIONS
from ..data.formats import FORMATS
from ._base import SYSTEMS, register_system
from .anymal import anymal
from .macaw_llm import macaw_llm
from .mplug_owl import mplug_owl
from .pandagpt import pandagpt
from .x_llm import x_llm


# Processors of saved checkpoints. Transformers' own read images only where these are.
if is_vision_available() and is_torchvision_available():
    from .macaw_llm import video  # noqa: F401
    from .mplug_owl import processing  # noqa: F401
    from .x_llm import video as _x_llm_video  # noqa: F401

for _name in ("macaw_llm", "mplug_owl", "pandagpt", "x_llm"):
    CONVERSIONS.promise(f"{__name__}.{_name}.convert", _name)
CONVERSIONS.promise(f"{__name__}.x_llm.convert_cif", "cif")
for _name in ("anymal", "macaw_llm", "mplug_owl", "pandagpt"):
    FORMATS.promise(f"{__name__}.{_name}.data_format", _name)
FORMATS.promise(
    f"{__name__}.x_llm.data_format", *(f"x_llm_{_name}" for _name in ("image", "video", "asr", "masr", "vsd"))
)

__all__ = [
    "SYSTEMS",
    "anymal",
    "macaw_llm",
    "mplug_owl",
    "pandagpt",
    "register_system",
    "x_llm",
]
