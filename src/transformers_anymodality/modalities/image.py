"""Images with three colour channels, as 8-bit RGB."""

import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import GotOcr2ImageProcessor, GotOcr2ImageProcessorPil

from ..utils.imports import require
from ._arrays import first_bad, to_numpy
from ._base import ModalitySpec
from ._limits import PIXELS, with_pixels
from ._pdf import Pdf
from ._source import DEFAULT_LIMITS, Limits, MediaError, describe, head, is_array, is_picture, open_source, told
from ._tiff import heard


if TYPE_CHECKING:
    from PIL import Image

# Settings that tiles share with full images.
_OF_TILES = ("image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor", "resample", "do_convert_rgb")
# Pillow also opens formats that run other programs (EPS) or that cameras do not write; those are not allowed.
_FORMATS = [
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP",
]  # fmt: skip
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of such files
_ORIENTATION = 0x0112  # of EXIF; 1 is upright
_TIFF_TYPE = 254  # the tag with the kind of a page
_TIFF_ASIDE = 0b101  # its bits for a smaller version of another page, and for a mask
SLOWER = 10  # decoding a frame of an animation takes so many times longer than one of a video


@dataclass(frozen=True, kw_only=True)
class ImageSpec(ModalitySpec):
    medium = "pixels"
    processor_kind = "image_processor"
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pdf")

    @property
    def options(self) -> dict[str, Any]:
        return {"tiles": None, **PIXELS}

    def adapted(self, processor: Any, options: dict[str, Any]) -> Any:
        """With `tiles`, a processor that cuts an image into at most that many tiles of the tower's size. The grid is the
        one closest to the image's shape; the full image is the last tile (InternVL 1.5, arXiv 2404.16821, section 3.2)."""
        processor = with_pixels(processor, options)
        return processor if options["tiles"] is None else tiling(processor, options["tiles"])

    def most_frames(self, options: dict[str, Any]) -> int | None:
        tiles = options.get("tiles")
        return None if tiles is None else tiles + (tiles > 1)  # plus the full image

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> Any:
        return read_image(source, **access)

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> Mapping[str, Any]:
        """`pixel_values (items, channels, height, width)` float32, and other outputs of the image processor."""
        return processor(images=items, return_tensors="pt", **kwargs)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> Any:
        side = 48 + 16 * size
        row, column = np.mgrid[0:side, 0 : side + 16 + 48 * size]  # another aspect ratio, not only larger
        return np.stack([row * 2, column * 2, row + column], axis=-1).astype(np.uint8)


def tiling(processor: Any, tiles: int) -> Any:
    """A stock image processor that cuts images into tiles, each prepared as `processor` prepares a full image."""
    if not isinstance(tiles, int) or isinstance(tiles, bool) or tiles < 1:
        raise ValueError(f"tiles is {tiles!r}; it must be an integer of at least 1.")
    size = dict(getattr(processor, "crop_size", None) or getattr(processor, "size", None) or {})
    side = size.get("shortest_edge") or size.get("longest_edge")
    height, width = size.get("height") or side, size.get("width") or side
    if not (height and width):
        raise ValueError(f"{type(processor).__name__} does not resize images to one size, which `tiles` need.")
    own = {name: getattr(processor, name) for name in _OF_TILES if getattr(processor, name, None) is not None}
    kind = GotOcr2ImageProcessorPil if type(processor).__name__.endswith("Pil") else GotOcr2ImageProcessor
    return kind(**own, size={"height": height, "width": width}, crop_to_patches=True, max_patches=tiles)


@cache
def _quieten() -> None:
    """Silences Pillow: it warns about broken tags even if pixels are intact, and logs the errors that it raises."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read|Metadata Warning", UserWarning, r"PIL\.")


@contextmanager
def open_image(source: Any, name: str, limits: Limits) -> "Generator[Image.Image]":
    """An image from a file, bytes in memory or a PIL image; its size is checked, its pixels are not decoded yet. Turns
    every error of Pillow inside the block into a `MediaError`."""
    module = require("PIL.Image")
    is_open, is_tiff = is_picture(source), False
    _quieten()
    if not is_open:
        module.init()
    formats = [] if is_open else [known for known in _FORMATS if known in module.OPEN]
    try:
        with nullcontext(source) if is_open else module.open(source, formats=formats) as image:
            is_tiff = image.format == "TIFF"
            if is_tiff:
                heard()  # drops errors of other files
            limits.check_pixels(image.width, image.height, name)
            yield image
        if is_tiff and (wrong := heard()):
            raise MediaError(f"{name} is corrupt (libtiff: {wrong}): save it again.")
    except (MediaError, ImportError):
        raise
    except module.UnidentifiedImageError as error:
        start = head(source, 12)
        if start[4:8] == b"ftyp" and start[8:12] in _HEIC:
            raise MediaError(
                f"{name} is HEIC, which Pillow alone does not read: convert it, or pip install pillow-heif and call "
                "pillow_heif.register_heif_opener()."
            ) from error
        hint = " It is a zip archive (.npz, .docx?): take the file out." if start[:4] == b"PK\3\4" else ""
        raise MediaError(
            f"{name} is not an image of a known format (it begins with {start[:8]!r}): expected one of "
            f"{', '.join(formats)}.{hint}"
        ) from error
    except module.DecompressionBombError as error:
        raise MediaError(f"{name} is refused by Pillow ({error}): see PIL.Image.MAX_IMAGE_PIXELS.") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, EOFError, ValueError and more
        wrong = (is_tiff and heard()) or f"{type(error).__name__}: {error}"
        raise MediaError(f"{name} cannot be decoded ({wrong}): the file is truncated or corrupt.") from error


def read_image(source: Any, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS) -> "Image.Image":
    """Reads an image as 8-bit RGB.

    Args:
        source: any source of `open_source`; a PIL image; or an array or tensor of shape (H, W), (H, W, 1 | 3 | 4) or
            (1 | 3 | 4, H, W), uint8, or float in [0, 1]. A dict chooses a page of a PDF or TIFF or a frame of an animation,
            from 1 on: `{"path": ..., "page": 3}`. A PDF is rendered at 150 dots per inch, or `"dpi"`.
        allow_urls, limits: as in `open_source`.

    Returns:
        RGB image, turned upright by its EXIF orientation, transparency on white, 16-bit grey scaled to 8 bits. A PIL image
        that needs no change is returned itself.

    Raises:
        MediaError: unreadable, truncated, too large, several pages but none chosen, or an array of another shape, type or
            range.
        ImportError: Pillow is missing; or pypdfium2 is missing and the source is a PDF.
    """
    name = describe(source)
    if is_array(source):
        return _array_to_rgb(to_numpy(source, name), name)
    given = source if is_picture(source) else open_source(source, allow_urls=allow_urls, limits=limits)
    if given is not source and _is_pdf(given):
        with Pdf(given, name) as pdf:
            return pdf.draw(_page_index(source, len(pdf), name), told(source).get("dpi"), limits)
    with open_image(given, name, limits) as image:
        turn_to_page(image, source, name, limits)
        turned = upright(image)
        is_plain = turned.mode == "RGB" and "transparency" not in turned.info
        return source if turned is source and is_plain else to_rgb(turned, name)


def pages(
    source: Any, *, dpi: float | None = None, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS
) -> list[dict[str, Any]]:
    """The pages of a PDF or TIFF, or the frames of an animation, each as a separate image.

    Nothing is decoded before it is read. As images of a chat: `[{"type": "image", **page} for page in pages("report.pdf")]`;
    the first ten: `pages("report.pdf")[:10]`.

    Args:
        source: any source of `open_source`.
        dpi: dots per inch of PDF pages; 150 by default.
        allow_urls, limits: as in `open_source`.

    Returns:
        `{"path": ..., "page": 1}` and so on; `"bytes"` instead of `"path"` if it is not a local file.

    Raises:
        MediaError, ImportError: as `read_image`.
    """
    name, file = describe(source), open_source(source, allow_urls=allow_urls, limits=limits)
    if _is_pdf(file):
        with Pdf(file, name) as pdf:
            count = len(pdf)
    else:
        with open_image(file, name, limits) as image:
            count = len(_image_numbers(image))
    limits.check_frames(count, name)
    given = {"bytes": file.getvalue()} if isinstance(file, BytesIO) else {"path": str(file)}
    given |= {} if dpi is None else {"dpi": dpi}
    return [{**given, "page": number} for number in range(1, count + 1)]


def _is_pdf(source: Path | BytesIO) -> bool:
    return b"%PDF-" in head(source, 1024)  # readers search these bytes; others may come first


def _image_numbers(image: "Image.Image") -> Sequence[int]:
    """The frames of a PIL image that are separate images. Smaller versions and masks of a TIFF's pages are not, and neither
    are a camera's extra images after its JPEG (a preview, a map of brightness)."""
    count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    if count == 1 or image.format != "TIFF":
        return range(count)
    place, numbers = image.tell(), []
    for number in range(count):
        image.seek(number)
        if not image.tag_v2.get(_TIFF_TYPE, 0) & _TIFF_ASIDE:
            numbers.append(number)
    image.seek(place)
    return numbers or range(count)


def _page_index(source: Any, count: int, name: str) -> int:
    page = told(source).get("page")
    if page is None and count > 1:
        raise MediaError(
            f"{name} holds {count} pages or frames, expected one image. Choose one, "
            '{"path": ..., "page": 1}, or give all as images (`modalities.pages(...)` lists them). Give an animation as '
            "a video, and for a PIL image a `.copy()` of the page."
        )
    page = 1 if page is None else page
    if isinstance(page, bool) or not isinstance(page, Integral) or not 1 <= page <= count:
        raise MediaError(f'"page" of {name} is {page!r}, expected an integer from 1 to {count}.')
    return int(page) - 1


def turn_to_page(image: "Image.Image", source: Any, name: str, limits: Limits) -> None:
    """Turns an open image to the page that its source asks for. Raises `MediaError` if there are several and none is
    chosen, or if the page does not exist."""
    # A pickled copy from another process has one page and no file; otherwise the caller turned to this page.
    if image is source and (not hasattr(image, "fp") or image.tell() > 0):
        return
    numbers = _image_numbers(image)
    page = numbers[_page_index(source, len(numbers), name)]
    if image.format != "TIFF":  # all frames up to this one are decoded
        limits.check_area(page + 1, image.width, image.height, name, SLOWER)
    image.seek(page)
    limits.check_pixels(image.width, image.height, name)


def upright(image: "Image.Image") -> "Image.Image":
    image.load()
    try:
        if image.getexif().get(_ORIENTATION, 1) == 1:  # Pillow would copy it
            return image
        return require("PIL.ImageOps").exif_transpose(image)
    except Exception:  # a broken EXIF block has no orientation, but the pixels are intact
        return image


def to_rgb(image: "Image.Image", name: str) -> "Image.Image":
    """A new 8-bit RGB image from a PIL image of any mode; transparency is put on white. Raises `MediaError` for values of
    unknown range (32-bit integers beyond 16 bits, floats beyond [0, 1])."""
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


_DARK = 4  # a 16-bit image whose greatest value is below this share of the range would be too dark


def _deep_to_rgb(image: "Image.Image", name: str) -> "Image.Image":
    # Pillow's own conversion clips at 255, which makes nearly all of a 16-bit image white.
    full = 1.0 if image.mode == "F" else 65535.0
    values = np.asarray(image).astype(np.float64)
    if first_bad(values) is not None or values.min() < 0 or values.max() > full:
        raise MediaError(
            f"{name} holds values from {values.min():g} to {values.max():g}, expected 0..{full:g}: if these are "
            "measurements (depth, temperature), give them as such a modality (read_map)."
        )
    if image.mode != "F" and 0 < values.max() < full / _DARK:
        raise MediaError(
            f"{name} is a 16-bit image whose values end at {values.max():g}, so it would be black: scale it to "
            f"0..{full:g}. If these are measurements (depth, temperature), give them as such a modality (read_map)."
        )
    return _grey(np.rint(values * (255.0 / full)).astype(np.uint8))


def _grey(values: np.ndarray) -> "Image.Image":
    return require("PIL.Image").fromarray(np.ascontiguousarray(values)).convert("RGB")


def pixels_to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """uint8 pixels unchanged, float pixels in [0, 1] scaled to 0..255 and rounded. Raises `MediaError` for another type,
    NaN, infinity, or floats outside [0, 1]."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f":
        raise MediaError(
            f"{name} holds {values.dtype}, expected uint8, or float in [0, 1]: cast with .astype('uint8') if the values "
            "are in 0..255; give raw measurements as a map (read_map)."
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


def _array_to_rgb(values: np.ndarray, name: str) -> "Image.Image":
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
