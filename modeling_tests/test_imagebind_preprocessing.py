"""What prepares media for ImageBind's towers: depth, temperatures, sounds, videos, texts."""

import numpy as np
import pytest
import torch

from modeling_tests import tiny
from transformers_anymodality import MediaError
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.towers.imagebind import (
    ImageBindAudioFeatureExtractor,
    ImageBindDepthImageProcessor,
    ImageBindThermalImageProcessor,
    ImageBindVideoProcessor,
    tokenize,
)


def test_depth_is_disparity():
    processor = ImageBindDepthImageProcessor(4, baseline=0.1, focal_length=100.0)
    for depth, disparity in ((2.0, 5.0), (1000.0, 0.2), (0.0, 75.0), (0.05, 75.0)):
        values = processor([np.full((6, 5), depth, np.float32)]).pixel_values
        expected = (disparity / 75 - 0.0418) / 0.0295
        torch.testing.assert_close(values, torch.full((1, 1, 4, 4), expected), atol=1e-3, rtol=1e-5)
    processor = ImageBindDepthImageProcessor(4, max_disparity=None)
    assert ImageBindDepthImageProcessor.from_dict(processor.to_dict()).max_disparity is None
    with pytest.raises(MediaError, match="depth of -1 m"):
        processor([np.full((4, 4), -1.0, np.float32)])


def test_temperatures_need_their_range():
    celsius = np.linspace(-20, 120, 64, dtype=np.float32).reshape(8, 8)
    with pytest.raises(MediaError, match="outside of value_range 0 to 255"):
        ImageBindThermalImageProcessor(8)([celsius])
    values = ImageBindThermalImageProcessor(8, value_range=(-20.0, 120.0))([celsius]).pixel_values
    torch.testing.assert_close(values[0, 0], torch.linspace(0, 1, 64).view(8, 8), atol=1 / 255, rtol=0)
    settings = {"value_range": (0, 9)}
    with pytest.raises(ValueError, match="scales values itself"):
        MODALITIES["thermal"].read(celsius, ImageBindThermalImageProcessor(8), settings)


@pytest.mark.parametrize(
    "waveform, problem",
    [
        (np.zeros((1, 0), np.float32), "empty"),
        (np.zeros((1, 300), np.float32), "too short"),
        (np.full((1, 9000), np.nan, np.float32), "nan"),
    ],
)
def test_bad_audio_is_refused(waveform, problem):
    with pytest.raises(MediaError, match=problem):
        ImageBindAudioFeatureExtractor()([(waveform, 16000)])


def test_audio_in_many_forms():
    extractor = ImageBindAudioFeatureExtractor()
    mono = (0.1 * np.random.default_rng(0).standard_normal(40000)).astype(np.float32)
    one = extractor(mono).input_features
    assert one.shape == (1, 3, 1, 128, 204)
    for given in ([mono], (mono, 16000), [(mono[None], 16000)], [mono.tolist()], mono.tolist()):
        assert torch.equal(extractor(given).input_features, one)
    stereo = np.stack([mono, np.roll(mono, 9) + 0.1])
    # The first channel counts, less the mean of both, which windows without a mean do not show.
    torch.testing.assert_close(extractor([(stereo, 16000)]).input_features, one, atol=1e-3, rtol=0)


def test_only_overlapping_clips_differ_from_the_original():
    mono = (0.1 * np.random.default_rng(0).standard_normal(16000 * 7) + 0.2).astype(np.float32)
    for seconds, same in ((7, True), (4, False)):
        before = mono[: 16000 * seconds].copy()
        ours, theirs = (
            ImageBindAudioFeatureExtractor(faithful=faithful)([(before, 16000)]).input_features
            for faithful in (False, True)
        )
        assert torch.equal(ours, theirs) is same
        assert np.array_equal(before, mono[: 16000 * seconds])


@pytest.mark.parametrize(
    "total, fps", [(1, 24.0), (2, 1.0), (7, 30.0), (10, 0.3), (24, 6.0), (301, 29.97), (9000, 25.0)]
)
def test_frames_are_those_of_a_video(total, fps):
    processor = ImageBindVideoProcessor()
    numbers = processor.frame_indices(total, fps)
    assert len(numbers) == 10
    assert 0 <= min(numbers) and max(numbers) == total - 1
    assert all(first <= last for first, last in zip(numbers[::2], numbers[1::2], strict=True))
    assert numbers[::2] == sorted(numbers[::2])


def test_squares_of_upright_and_wide_videos():
    processor = ImageBindVideoProcessor(8, num_clips=1, frames_per_clip=1)
    wide = np.arange(8 * 20, dtype=np.uint8).reshape(1, 8, 20, 1).repeat(3, 3)
    views = processor([wide]).pixel_values[0, :, 0, 0]
    upright = processor([wide.transpose(0, 2, 1, 3)]).pixel_values[0, :, 0, 0]
    assert views.shape == (3, 8, 8)
    assert torch.equal(views.transpose(1, 2), upright)
    whole = (torch.from_numpy(wide[0, ..., 0]).float() / 255 - processor.image_mean[0]) / processor.image_std[0]
    for view, left in zip(views, (0, 6, 12), strict=True):
        torch.testing.assert_close(view, whole[:, left : left + 8])
    with pytest.raises(MediaError, match="takes 10 frames"):
        ImageBindVideoProcessor()([wide])


def test_text_is_cleaned_and_cut():
    tokenizer = tiny.tokenizer()
    words = [tokenizer.convert_tokens_to_ids(word) for word in ("this", "and", "that")]
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokenize(tokenizer, "this  and that ", 6).tolist() == [[begin, *words, end, 0]]
    assert tokenize(tokenizer, ["this and that"], 4).tolist() == [[begin, *words[:2], end]]
    assert tokenize(tokenizer, ["this and that"], 4, keep_end=False).tolist() == [[begin, *words]]
    assert torch.equal(tokenize(tokenizer, "this &amp;#63; that"), tokenize(tokenizer, "this ? that"))
