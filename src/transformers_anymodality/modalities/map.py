"""Maps of one measured quantity (depth, temperature), raw values and all. An image tower reads three equal channels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import NPY_MAGIC, first_bad, load_npy, to_numpy
from ._base import ModalitySpec
from ._source import DEFAULT_LIMITS, Limits, MediaError, describe, head, is_array, is_picture, open_source
from .image import open_image, upright


if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class MapSpec(ModalitySpec):
    """`value_range` (low, high), in the file's own units, becomes black to white; without it each item's own least and
    greatest values do. Image processors with `reads_raw = True` get `(height, width)` float32 in the file's units."""

    value_range: tuple[float, float] | None = None

    medium = "pixels"
    processor_kind = "image_processor"
    suffixes = (".png", ".tif", ".tiff", ".npy")

    @property
    def options(self) -> dict[str, Any]:
        return {"value_range": self.value_range}

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> np.ndarray:
        """`(height, width, 3)` float32 between 0 and 255, not rounded, so that 16-bit maps keep their steps; or raw."""
        values = read_map(source, **access)
        if getattr(processor, "reads_raw", False):
            if options["value_range"] is not None:
                raise ValueError(f"value_range is set, but {type(processor).__name__} scales values itself.")
            return values
        low, high = options["value_range"] or (values.min(), values.max())
        scaled = (values - low) / max(float(high) - float(low), np.finfo(np.float32).tiny)
        return np.repeat(np.clip(scaled, 0, 1)[..., None] * np.float32(255), 3, axis=-1).astype(np.float32)

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> Mapping[str, Any]:
        """`pixel_values (items, 3, height, width)` float32."""
        if not getattr(processor, "reads_raw", False):
            kwargs["input_data_format"] = "channels_last"
        return super().extract(items, processor, options, **kwargs)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> np.ndarray:
        side = 48 + 16 * size
        row, column = np.mgrid[0:side, 0 : side + 16]
        return (row + 2.0 * column).astype(np.float32)


def read_map(source: Any, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Read a map of one measured value per pixel, such as depth or temperature, its raw values unchanged.

    Args:
        source: anything `open_source` takes, holding an 8- or 16-bit PNG, a 16- or 32-bit (also float) TIFF, another
            single-channel image or a `.npy` file; a PIL image; or an array or tensor of shape (H, W), (1, H, W) or
            (H, W, 1). A colour image only where its channels are equal.
        allow_urls, limits: as `open_source` takes them.

    Returns:
        float32, shape (H, W), in the units of the source. Integers beyond 2**24 are rounded to float32.

    Raises:
        MediaError: unreadable, truncated, too large, more than one channel, NaN or infinity (the place is named).
        ImportError: Pillow is missing and an encoded image came.
    """
    name = describe(source)
    if is_array(source):
        return _finite_map(to_numpy(source, name), name)
    given = source if is_picture(source) else open_source(source, allow_urls=allow_urls, limits=limits)
    if given is not source and head(given, len(NPY_MAGIC)) == NPY_MAGIC:
        values = load_npy(given, name, limits)
        limits.check_pixels(values.shape[-1], values.size // values.shape[-1] if values.ndim else 0, name)
    else:
        with open_image(given, name, limits) as image:
            values = _map_values(image, name)
    return _finite_map(values, name)


def _map_values(image: "Image.Image", name: str) -> np.ndarray:
    """Raw values (H, W) of a PIL image."""
    tile = getattr(image, "tile", None)
    if image.mode in ("RGB", "RGBA", "LA") and tile and ";16" in str(tile[0][3]):
        raise MediaError(
            f"{name} is a colour image of 16 bits per channel, of which only 8 bits can be read: save it with a "
            "single 16-bit grey channel, as .tiff (float) or as .npy."
        )
    unsigned = image.mode == "I" and (getattr(image, "tag_v2", None) or {}).get(339, (1,)) in ((1,), 1)
    image = upright(image)
    if image.mode in ("L", "1", "I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if unsigned and values.min() < 0:
            raise MediaError(f"{name} holds unsigned 32-bit values beyond 2**31, which overflow: save it as float.")
        return values
    if image.mode in ("RGB", "P", "RGBA", "LA", "PA"):
        channels = np.asarray(image.convert("RGBA"))
        colour = channels[..., :3]
        if (colour == colour[..., :1]).all() and (channels[..., 3] == 255).all():
            return colour[..., 0]
    raise MediaError(
        f"{name} is a colour image (mode {image.mode}) whose channels differ, expected one value per pixel: a "
        "rendering in false colours cannot be turned back into measurements. Give the raw map (16-bit PNG, TIFF "
        "or .npy), or read it by read_image."
    )


def _finite_map(values: np.ndarray, name: str) -> np.ndarray:
    shape = values.shape
    if values.ndim == 3 and 1 in (shape[0], shape[2]):
        values = values[0] if shape[0] == 1 else values[:, :, 0]
    if values.ndim != 2:
        raise MediaError(f"{name} has shape {shape}, expected (H, W), (1, H, W) or (H, W, 1): one value per pixel.")
    with np.errstate(over="ignore"):
        result = np.array(values, dtype=np.float32, order="C")
    bad = first_bad(result)
    if bad is not None:
        raise MediaError(
            f"{name} holds {values[bad]} at row {bad[0]}, column {bad[1]}: expected finite numbers within float32. "
            "Fill missing measurements first, for instance by 0."
        )
    return result
