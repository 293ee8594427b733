"""ImageBind's towers against what the original code gave, in every case that was recorded."""


def test_equals_the_original(recording, converted):
    found = recording("imagebind")
    found.replay("imagebind", converted("imagebind", found.folder), atol=2e-5)
    found.finish()
