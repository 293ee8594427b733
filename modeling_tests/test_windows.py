"""Recordings that are cut into windows: nothing is lost, nothing comes twice but the overlap, and features of padding are dropped."""

from math import ceil

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.modalities._arrays import check_windows, windows
from transformers_anymodality.modalities.signal import SignalFeatureExtractor


@pytest.mark.parametrize("values", [1, 9, 10, 11, 17, 18, 19, 34])
@pytest.mark.parametrize("overlap", [0, 2, 9])
def test_each_window_holds_something_new(values, overlap):
    pieces = windows(np.arange(values), 10, {"windows": 34, "overlap": overlap / 10}, 10)
    assert [len(piece) for piece in pieces[:-1]] == [10] * (len(pieces) - 1)
    assert np.array_equal(np.concatenate([pieces[0], *(piece[overlap:] for piece in pieces[1:])]), np.arange(values))
    assert all(len(piece) > overlap for piece in pieces[1:])


def test_a_share_of_a_window_is_exact():
    """0.14 s of 30 are 7 of 1500 features, which floating-point numbers would round up to 8."""
    share = MODALITIES["audio"].share(np.zeros(2240), WhisperFeatureExtractor(), {})
    assert ceil(1500 * share) == 7


def test_a_step_below_one_value_is_refused():
    extractor = SignalFeatureExtractor(channels=["x"], sampling_rate=10, num_samples=10)
    with pytest.raises(ValueError, match="overlap is 0.99"):
        check_windows({"windows": 2, "overlap": 0.99}, 10, extractor)
