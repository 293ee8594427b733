"""ImageBind's towers against what the original code gave, in every case that was recorded."""

from __future__ import annotations


def test_equals_the_original(recording, converted):
    found = recording("imagebind")
    found.replay("imagebind", converted(found, "imagebind"), atol=2e-5, rtol=1e-4)
