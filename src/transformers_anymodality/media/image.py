"""Images for eyes (8-bit RGB) and maps whose raw values matter (depth, heat)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.imports import require
from ._arrays import NPY_MAGIC, first_bad, load_npy, to_numpy
from ._containers import head
from ._source import DEFAULT_LIMITS, Limits, MediaError, describe, is_array, open_source


if TYPE_CHECKING:
    from PIL import Image

# Pillow also opens formats that run other programs (EPS) or that no camera writes; those stay shut.
_FORMATS = ["AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"]


@contextmanager
def open_image(source: Path | BytesIO, name: str, limits: Limits) -> Generator[Image.Image]:
    """Open an encoded image, its pixels not decoded yet, with the size its header gives checked.

    Whatever Pillow raises inside the block comes out as `MediaError`.

    Args:
        source: what `open_source` returned.
        name: the source's name for messages.
        limits: `max_pixels` is applied.
    """
    module = require("PIL.Image")
    module.init()
    formats = [known for known in _FORMATS if known in module.OPEN]
    try:
        with module.open(source, formats=formats) as image:
            check_pixels(image.width, image.height, name, limits)
            yield image
    except (MediaError, ImportError):
        raise
    except module.UnidentifiedImageError as error:
        raise MediaError(
            f"{name} is no image of a known format (it begins with {head(source, 8)!r}): expected one of "
            f"{', '.join(formats)}."
        ) from error
    except module.DecompressionBombError as error:
        raise MediaError(f"{name} is refused by Pillow ({error}): see PIL.Image.MAX_IMAGE_PIXELS.") from error
    except Exception as error:  # the decoders raise OSError, SyntaxError, struct.error, EOFError, ValueError and more
        raise MediaError(
            f"{name} cannot be decoded ({type(error).__name__}: {error}): the file is truncated or corrupt."
        ) from error


def check_pixels(width: int, height: int, name: str, limits: Limits) -> None:
    """Raise `MediaError` for a frame that is empty or above `limits.max_pixels`."""
    if width < 1 or height < 1:
        raise MediaError(f"{name} has an empty frame ({width} x {height} pixels).")
    if width * height > limits.max_pixels:
        raise MediaError(
            f"{name} has {width} x {height} pixels, more than the limit of {limits.max_pixels}: scale it down, or "
            "pass limits=Limits(max_pixels=...) if you trust it."
        )


def read_image(source: Any, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Read an image as 8-bit RGB.

    Args:
        source: anything `open_source` takes; a PIL image; or an array or tensor of shape (H, W), (H, W, 1 | 3 | 4)
            or (1 | 3 | 4, H, W), uint8, or float in [0, 1].
        allow_urls: fetch http(s) URLs.
        limits: ceilings; pixels are checked before decoding.

    Returns:
        RGB image, turned upright by its EXIF orientation, transparency laid on white, 16-bit grey scaled to 8 bits.
        Of an animation, the first frame (of a PIL image, the current one).

    Raises:
        MediaError: unreadable, truncated, too large, or an array of another shape, type or range.
        ImportError: Pillow is missing.
    """
    name = describe(source)
    module = require("PIL.Image")
    if isinstance(source, module.Image):
        name = f"PIL image of mode {source.mode}, {source.width} x {source.height} pixels"
        check_pixels(source.width, source.height, name, limits)
        try:
            return to_rgb(_upright(source), name)
        except (OSError, SyntaxError, EOFError) as error:  # PIL images decode lazily
            raise MediaError(f"{name} cannot be decoded ({error}): its file is truncated or corrupt.") from error
    if is_array(source):
        return _array_to_rgb(to_numpy(source, name), name)
    with open_image(open_source(source, allow_urls=allow_urls, limits=limits), name, limits) as image:
        return to_rgb(_upright(image), name)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return require("PIL.ImageOps").exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about orientation, and the pixels are sound
        return image


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A new 8-bit RGB image from a PIL image of any mode; transparency is laid on white.

    Raises:
        MediaError: values whose range is unknown (32-bit integers beyond 16 bits, floats beyond [0, 1]).
    """
    module = require("PIL.Image")
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_to_rgb(image, name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        image = image.convert("RGBA")
        white = module.new("RGBA", image.size, (255, 255, 255, 255))
        return module.alpha_composite(white, image).convert("RGB")
    try:
        return image.copy() if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise MediaError(f"{name}: mode {image.mode} cannot be converted to RGB ({error}).") from error


def _deep_to_rgb(image: Image.Image, name: str) -> Image.Image:
    # Pillow's own conversion clips at 255, which turns nearly all of a 16-bit image white.
    full = 1.0 if image.mode == "F" else 65535.0
    values = np.asarray(image).astype(np.float64)
    if first_bad(values) is not None or values.min() < 0 or values.max() > full:
        raise MediaError(
            f"{name} holds values from {values.min():g} to {values.max():g}, expected 0..{full:g}: if these are "
            "measurements (depth, heat), read them by read_map."
        )
    return _grey(np.rint(values * (255.0 / full)).astype(np.uint8))


def _grey(values: np.ndarray) -> Image.Image:
    return require("PIL.Image").fromarray(np.ascontiguousarray(values)).convert("RGB")


def pixels_to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """uint8 pixels as they are, float pixels in [0, 1] scaled to 0..255 and rounded.

    Raises:
        MediaError: another type, NaN, infinity, or floats outside [0, 1].
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f":
        raise MediaError(
            f"{name} holds {values.dtype}, expected uint8, or float in [0, 1]: cast by .astype('uint8') if the values "
            "lie in 0..255; raw measurements belong to read_map."
        )
    bad = first_bad(values)
    if bad is not None:
        raise MediaError(f"{name} holds {values[bad]} at index {bad}: pixels must be finite.")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise MediaError(
            f"{name} holds floats from {low:g} to {high:g}, expected [0, 1]: divide by 255, or undo a normalisation."
        )
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _array_to_rgb(values: np.ndarray, name: str) -> Image.Image:
    wanted = "expected (H, W), (H, W, 1 | 3 | 4) or (1 | 3 | 4, H, W)"
    if values.ndim == 3:
        last, first = values.shape[2] in (1, 3, 4), values.shape[0] in (1, 3, 4)
        if last and first:
            raise MediaError(
                f"{name}: both the first and the last axis could be the channels. Give a PIL image, or drop an axis."
            )
        if first:
            values = np.moveaxis(values, 0, 2)
        elif not last:
            raise MediaError(f"{name}: {wanted}.")
        if values.shape[2] == 1:
            values = values[:, :, 0]
    elif values.ndim != 2:
        raise MediaError(f"{name}: {wanted}" + (", one image without a batch axis." if values.ndim == 4 else "."))
    values = pixels_to_uint8(values, name)
    if values.ndim == 2:
        return _grey(values)
    return to_rgb(require("PIL.Image").fromarray(np.ascontiguousarray(values)), name)


def read_map(source: Any, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Read a map of one measured value per pixel, such as depth or temperature, its raw values unchanged.

    Args:
        source: anything `open_source` takes, holding an 8- or 16-bit PNG, a 16- or 32-bit (also float) TIFF, another
            single-channel image or a `.npy` file; a PIL image; or an array or tensor of shape (H, W), (1, H, W) or
            (H, W, 1). A colour image only where its channels are equal.
        allow_urls: fetch http(s) URLs.
        limits: ceilings; pixels are checked before decoding.

    Returns:
        float32, shape (H, W), in the units of the source. Integers beyond 2**24 are rounded to float32.

    Raises:
        MediaError: unreadable, truncated, too large, more than one channel, NaN or infinity (the place is named).
        ImportError: Pillow is missing and an encoded image came.
    """
    name = describe(source)
    if is_array(source):
        return _finite_map(to_numpy(source, name), name)
    if type(source).__module__.partition(".")[0] == "PIL":
        check_pixels(source.width, source.height, name, limits)
        return _finite_map(_map_values(source, name), name)
    resolved = open_source(source, allow_urls=allow_urls, limits=limits)
    if head(resolved, len(NPY_MAGIC)) == NPY_MAGIC:
        values = load_npy(resolved, name, limits)
        check_pixels(values.shape[-1], values.size // values.shape[-1] if values.ndim else 0, name, limits)
    else:
        with open_image(resolved, name, limits) as image:
            values = _map_values(image, name)
    return _finite_map(values, name)


def _map_values(image: Image.Image, name: str) -> np.ndarray:
    """Raw values (H, W) of a PIL image."""
    tile = getattr(image, "tile", None)
    if image.mode in ("RGB", "RGBA", "LA") and tile and ";16" in str(tile[0][3]):
        raise MediaError(
            f"{name} is a colour image of 16 bits per channel, of which only 8 bits can be read: save it with a "
            "single 16-bit grey channel, as .tiff (float) or as .npy."
        )
    unsigned = image.mode == "I" and (getattr(image, "tag_v2", None) or {}).get(339, (1,)) in ((1,), 1)
    image = _upright(image)
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
