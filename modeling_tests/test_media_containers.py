"""Sound in every container that tells its length or has checksums: cut off anywhere, it is refused; whole, it is read."""

import random
import struct

import numpy as np
import pytest

from modeling_tests.media_files import sound, tone
from transformers_anymodality.modalities import MediaError, read_audio


RATE = 16_000
KINDS = [
    *(("WAV", "PCM_16"), ("WAV", "FLOAT"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16")),
    *(("AIFF", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16")),
]


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_it_is_read_whole_or_refused(kind, subtype):
    data, rng = sound(tone(1.0, RATE), RATE, kind, subtype), random.Random(0)
    whole = read_audio(data, RATE)
    assert len(whole) == RATE
    for _ in range(12):
        try:
            found = read_audio(data[: rng.randrange(40, len(data))], RATE)
        except MediaError:
            continue
        assert np.array_equal(found, whole)  # no more than a byte of padding was lost


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_pages_of_ogg_are_what_their_checksums_say(subtype):
    data = sound(tone(1.0, RATE), RATE, "OGG", subtype)
    assert len(read_audio(data, RATE)) == RATE
    for place in (30, len(data) // 2, len(data) - 1):
        flipped = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        with pytest.raises(MediaError, match="page at byte [0-9]+ does not match its checksum"):
            read_audio(flipped, RATE)


def test_a_wrong_size_of_the_whole_costs_nothing():
    """As some recorders write it; the size of the samples is what counts."""
    data = sound(tone(1.0, RATE), RATE)
    wrong = data[:4] + struct.pack("<I", len(data)) + data[8:]
    assert np.array_equal(read_audio(wrong, RATE), read_audio(data, RATE))
