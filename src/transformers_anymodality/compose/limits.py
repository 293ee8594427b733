"""The option `max_tokens`: lowers the sub-processor's own limits until large media have at most that many tokens."""

from collections.abc import Callable
from math import isqrt
from typing import Any

import numpy as np

from ..modalities._limits import LIMITS, limit_of, with_limit
from ..processing.media_inputs import MediaMixin, ModalityInputs
from .part import Part


_SIZE = 48  # of a dummy input: 816 x 3136 pixels, which is cropped to each of the ratios (width over height)
_RATIOS = (1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.3, 3.8)  # sub-processors round sides, some of them up
_MOST_PIXELS = 2**25  # of all frames of a video


class TokenLimit:
    """
    Args:
        part: the part whose processor is changed.
        try_again: tries the part with a changed processor.
        described: the part's settings in the processor.
    """

    def __init__(self, part: Part, try_again: Callable[[], None], described: Callable[[Part], ModalityInputs]):
        self.part, self.try_again, self.described = part, try_again, described
        self.most: Any = part.options.get("max_tokens")

    def set(self) -> None:
        """Raises ValueError if no limit of the processor is enough."""
        name, most = self.part.name, self.most
        if most is None:
            return
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise ValueError(f"max_tokens of {name!r} is {most!r}; it must be an integer of at least 1.")
        media = self._large()
        count = self._count(media)
        for limit in LIMITS if count > most else ():
            if limit_of(self.part.processor, limit) is None:
                continue
            enough = self._lower(limit, media[::5])
            while (count := self._count(media)) > most and enough:
                if not (lower := (limit_of(self.part.processor, limit) or 0) * 19 // 20):
                    break
                self.part.processor = with_limit(self.part.processor, limit, lower)
            if enough:
                break
        if count > most:
            raise ValueError(
                f"max_tokens={most} of {name!r} cannot be reached: the limits of {type(self.part.processor).__name__} "
                f"leave {count} tokens for a large medium. Leave it out, or choose an aligner with `num_tokens`."
            )
        self.try_again()

    def _lower(self, name: str, media: list[Any]) -> bool:
        """Sets the highest limit that is enough. Returns whether there is one; if not, the lowest stays if it helps."""
        before = self.part.processor
        tokens, high = self._count(media), limit_of(before, name) or 0
        low, best = 1, (tokens, before)
        if "tokens" in name and self.most < high:  # some accept only certain numbers, and name them
            try:
                self.part.processor = with_limit(before, name, self.most)
                best, low = (self._count(media), self.part.processor), self.most
            except ValueError as error:
                raise ValueError(f"max_tokens={self.most} of {self.part.name!r}: {error}") from error
        while high - low > 1 + high // 64:
            middle = isqrt(low * high) if high > 4 * low else (low + high) // 2
            self.part.processor = with_limit(before, name, middle)
            try:
                found = self._count(media)
            except (ValueError, RuntimeError, ArithmeticError):
                found = None  # it is too low
            if found is None or found <= self.most:
                low = middle
            else:
                high = middle
            if found is not None and (found <= self.most or best[0] > max(found, self.most)):
                best = found, self.part.processor
        self.part.processor = best[1]
        return best[0] <= self.most

    def _large(self) -> list[Any]:
        """Dummy inputs, square and wide, and tall ones of half the size; smaller ones for videos, to save memory."""
        part, options = self.part, dict(self.part.options)
        if options.get("fps"):
            options["num_frames"] = options["max_frames"]
        frames = options["num_frames"] if "num_frames" in options else 1
        given = part.spec.dummy(part.processor, options, min(_SIZE, isqrt(_MOST_PIXELS // frames) // 32))
        whole = given["frames"] if isinstance(given, dict) else given
        broad = [whole[..., : int(whole.shape[-3] * ratio), :] for ratio in _RATIOS]
        broad += [one.swapaxes(-3, -2)[..., ::2, ::2, :] for one in broad]
        media = [np.ascontiguousarray(one) for one in broad]
        return [{**given, "frames": one} for one in media] if isinstance(given, dict) else media

    def _count(self, media: list[Any]) -> int:
        """The largest number of tokens among `media`."""
        if self.part.config.feature_length is not None:
            self.try_again()
        described = self.described(self.part)
        if described.num_tokens is not None:
            return described.num_tokens
        return max(_Counting(self.part, described).count(self.part.name, medium) for medium in media)


class _Counting(MediaMixin):
    def __init__(self, part: Part, described: ModalityInputs):
        self.modalities = {part.name: described}
        setattr(self, part.attribute, part.processor)

    def count(self, name: str, medium: Any) -> int:
        inputs = self._extract(name, [self._read(name, 0, medium, {}, None)], {})
        return self.num_tokens(name, inputs)[0]
