"""Maps of one measured quantity (depth, temperature), also as raw values. An image tower reads three equal channels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import NPY_MAGIC, first_bad, load_npy, positive, to_numpy
from ._base import ModalitySpec
from ._source import DEFAULT_LIMITS, Limits, MediaError, describe, head, is_array, is_picture, open_source, told
from .image import open_image, turn_to_page, upright


if TYPE_CHECKING:
    from PIL import Image


# Unit -> its quantity, and the factor and then the offset that convert values to that quantity's first unit.
UNITS: dict[str, tuple[str, float, float]] = {
    "m": ("length", 1.0, 0.0),
    "cm": ("length", 0.01, 0.0),
    "mm": ("length", 0.001, 0.0),
    "C": ("temperature", 1.0, 0.0),
    "K": ("temperature", 1.0, -273.15),
    "cK": ("temperature", 0.01, -273.15),  # hundredths of a kelvin, as radiometric cameras store
}
_DARK = 0.01  # of a value range; lower values become black
_MOST = 0.99  # of the values of a map


@dataclass(frozen=True, kw_only=True)
class MapSpec(ModalitySpec):
    """`value_range` (low, high) becomes black to white; without it, each item's own least and greatest values do, so that
    units do not matter. Image processors with `reads_raw = True` get `(height, width)` float32.

    Args:
        unit: unit of `value_range` and of raw values, the first of a quantity in `UNITS`; None leaves values unchanged. A
            source may give its own unit, `{"path": ..., "unit": "mm"}`: a unit of the same quantity, also with a number
            per count ("0.04 K"), or the number of `unit` per count, such as 1 / 5000.
        integer_unit: unit of integers of more than 8 bits whose source gives none; 8-bit values are then refused. Without
            it, values of every type have `unit`.
        plausible: least and greatest valid maximum, in `unit`, of a map whose source gives no unit.
    """

    value_range: tuple[float, float] | None = None
    unit: str | None = None
    integer_unit: str | None = None
    plausible: tuple[float, float] | None = None

    medium = "pixels"
    processor_kind = "image_processor"
    suffixes = (".png", ".tif", ".tiff", ".npy")

    @property
    def options(self) -> dict[str, Any]:
        return {"value_range": self.value_range}

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> np.ndarray:
        """`(height, width, 3)` float32 between 0 and 255, not rounded, so that 16-bit maps keep their steps; or raw."""
        name, span = describe(source), options["value_range"]
        raw = getattr(processor, "reads_raw", False)
        if raw and span is not None:
            raise ValueError(f"value_range is set, but {type(processor).__name__} scales values itself.")
        measured = _measured(source, name, **access)
        values = _finite_map(measured, name)
        if raw or span is not None or "unit" in told(source):
            values = self._in_unit(values, measured.dtype, told(source).get("unit"), name)
        if raw:
            return values
        low, high = span or (values.min(), values.max())
        low, high = float(low), float(high)
        scaled = (values.astype(np.float64) - low) / max(high - low, np.finfo(np.float32).tiny)
        if span is not None:
            self._check_span(values, scaled, span, name)
        return np.repeat(np.clip(scaled, 0, 1)[..., None] * np.float32(255), 3, axis=-1).astype(np.float32)

    def _in_unit(self, values: np.ndarray, dtype: np.dtype, said: Any, name: str) -> np.ndarray:
        remedy = f'give the unit, {{"path": ..., "unit": {self.integer_unit or self.unit!r}}}, one of {self._units()}'
        if said is None and self.integer_unit is not None and (dtype.kind in "bui" and dtype.itemsize == 1):
            raise MediaError(f"{name} holds 8-bit values, whose unit is unknown: {remedy}.")
        unit = said if said is not None else (dtype.kind in "ui" and self.integer_unit) or self.unit
        if unit is None:
            return values
        factor, offset = self._to_own(unit, name)
        result = (values.astype(np.float64) * factor + offset).astype(np.float32)
        known = result[values != 0]  # 0 means not measured
        if said is None and self.plausible is not None and known.size:
            if not self.plausible[0] <= known.max() <= self.plausible[1]:
                raise MediaError(
                    f"{name} holds {dtype} up to {values.max():g}. In {unit}, the usual unit of such numbers, that is "
                    f"{known.max():g} {self.unit}, which is unlikely: {remedy}."
                )
        return result

    def _to_own(self, unit: Any, name: str) -> tuple[float, float]:
        """Factor and offset from a unit to the spec's own."""
        count, _, own = unit.rpartition(" ") if isinstance(unit, str) else ("", "", "")
        if own in self._units() and (unit == own or re.fullmatch(r"\d+(\.\d*)?", count)):
            return UNITS[own][1] * positive(float(count or 1), f'"unit" of {name}', f" of {own}"), UNITS[own][2]
        if isinstance(unit, str) or self.unit is None:
            known = (
                f"one of {self._units()}, alone or with a number ('0.1 {self._units()[-1]}'), or a number of {self.unit}"
                if self.unit
                else f"no unit, because {self.name} has none"
            )
            raise MediaError(f'"unit" of {name} is {unit!r}, expected {known}.')
        return positive(unit, f'"unit" of {name}', f" of {self.unit}"), 0.0

    def _units(self) -> list[str]:
        return [unit for unit in UNITS if self.unit is not None and UNITS[unit][0] == UNITS[self.unit][0]]

    def _check_span(self, values: np.ndarray, scaled: np.ndarray, span: tuple[float, float], name: str) -> None:
        known = scaled[values != 0]
        colour = {"black": (known < _DARK).mean(), "white": (known >= 1).mean()} if known.size else {}
        for shade, share in colour.items():
            if share >= _MOST:
                unit = f" {self.unit}" if self.unit else ""
                say = f', or give its unit, {{"path": ..., "unit": ...}}, one of {self._units()}' if unit else ""
                raise MediaError(
                    f"{name} holds values from {values.min():g} to {values.max():g}{unit}, which become {shade} under "
                    f"the value_range of {span[0]:g} to {span[1]:g}{unit}: compose with the range of such maps{say}."
                )

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> Mapping[str, Any]:
        """`pixel_values (items, 3, height, width)` float32."""
        if not getattr(processor, "reads_raw", False):
            kwargs["input_data_format"] = "channels_last"
        return super().extract(items, processor, options, **kwargs)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> np.ndarray:
        side = 48 + 16 * size
        row, column = np.mgrid[0:side, 0 : side + 16]
        values = row + 2.0 * column
        if options.get("value_range") is not None:
            values = np.interp(values, (0, values.max()), options["value_range"])
        return values.astype(np.float32)


def read_map(source: Any, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Reads a map of one measured value per pixel, such as depth or temperature, with unchanged raw values.

    Args:
        source: any source of `open_source` with an 8- or 16-bit PNG, a 16- or 32-bit (also float) TIFF, another
            single-channel image or a `.npy` file; a PIL image; or an array or tensor of shape (H, W), (1, H, W) or
            (H, W, 1), also in a dict as `"array"`. A colour image only if its channels are equal. A dict chooses one of
            several pages, from 1 on: `{"path": ..., "page": 3}`.
        allow_urls, limits: as in `open_source`.

    Returns:
        float32, shape (H, W), in the units of the source. Integers beyond 2**24 are rounded to float32.

    Raises:
        MediaError: unreadable, truncated, too large, several pages but none chosen, more than one channel, NaN or infinity
            (at the named place).
        ImportError: Pillow is missing and the source is an encoded image.
    """
    name = describe(source)
    return _finite_map(_measured(source, name, allow_urls=allow_urls, limits=limits), name)


def _measured(source: Any, name: str, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """The values of a source in their own type."""
    if isinstance(source, Mapping) and is_array(source.get("array")):
        source = source["array"]
    if is_array(source):
        return to_numpy(source, name)
    given = source if is_picture(source) else open_source(source, allow_urls=allow_urls, limits=limits)
    if given is not source and head(given, len(NPY_MAGIC)) == NPY_MAGIC:
        values = load_npy(given, name, limits)
        limits.check_pixels(values.shape[-1], values.size // values.shape[-1] if values.ndim else 0, name)
        return values
    with open_image(given, name, limits) as image:
        turn_to_page(image, source, name, limits)
        size = 4 * image.width * image.height
        limits.check(
            "max_bytes", size, lambda: f"{name} has {image.width} x {image.height} pixels, {size} bytes once decoded"
        )
        return _map_values(image, name)


def _map_values(image: "Image.Image", name: str) -> np.ndarray:
    """Raw values (H, W) of a PIL image."""
    tile = getattr(image, "tile", None)
    if image.mode in ("RGB", "RGBA", "LA") and tile and ";16" in str(tile[0][3]):
        raise MediaError(
            f"{name} is a colour image of 16 bits per channel, but only 8 of them can be read: save it with a "
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
        "or .npy), or read it with read_image."
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
            "Fill missing measurements first, for example with 0."
        )
    return result
