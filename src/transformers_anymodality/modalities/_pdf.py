"""Pages of PDFs, rendered by PDFium."""

import threading
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.imports import require
from ._arrays import positive
from ._source import Limits, MediaError


if TYPE_CHECKING:
    from PIL import Image

DEFAULT_DPI = 150.0  # 1240 x 1754 pixels of an A4 page
_POINTS = 72.0  # PDF points per inch
_pdfium = threading.Lock()  # PDFium runs in one thread at a time


class Pdf:
    """A PDF that is open within a `with` block; only one is open at a time.

    Raises:
        MediaError: truncated, corrupt, or locked by a password.
        ImportError: pypdfium2 is missing.
    """

    def __init__(self, source: Path | BytesIO, name: str):
        self.source, self.name = source, name

    def __enter__(self) -> "Pdf":
        module = require("pypdfium2")
        _pdfium.acquire()
        try:
            self.document = module.PdfDocument(
                self.source if isinstance(self.source, Path) else self.source.getvalue()
            )
        except Exception as error:
            _pdfium.release()
            locked = "password" in str(error).lower()
            reason = "it needs a password: save it without one" if locked else "it is truncated or corrupt"
            raise MediaError(f"{self.name} cannot be opened as PDF ({error}): {reason}.") from error
        return self

    def __exit__(self, *error: Any) -> None:
        self.document.close()
        _pdfium.release()

    def __len__(self) -> int:
        return len(self.document)

    def draw(self, index: int, dpi: Any, limits: Limits) -> "Image.Image":
        """Page `index`, from 0 on, as RGB on white, with filled-in form fields. `dpi`: None for the default."""
        scale = positive(DEFAULT_DPI if dpi is None else dpi, f'"dpi" of {self.name}', " of dots per inch") / _POINTS
        where = f"Page {index + 1} of {self.name}"
        try:
            self.document.init_forms()
            page = self.document[index]
            width, height = page.get_size()
            limits.check_pixels(round(width * scale), round(height * scale), where)
            return page.render(scale=scale).to_pil().convert("RGB")
        except (MediaError, ImportError):
            raise
        except Exception as error:
            raise MediaError(f"{where} cannot be drawn ({error}): it is corrupt.") from error
