"""ImageBind's preprocessing against what the original loaders gave, from files and arrays to what the towers read."""

import re

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, AutoVideoProcessor

from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.towers.imagebind import (
    ImageBindAudioFeatureExtractor,
    ImageBindImageProcessor,
    ImageBindThermalImageProcessor,
    ImageBindVideoProcessor,
    tokenize,
)
from transformers_anymodality.towers.imagebind.image_processing import clip_starts


def reloaded(processor, auto_class, folder):
    processor.save_pretrained(folder)
    return auto_class.from_pretrained(folder)


def prepared(modality: str, source, processor, **options) -> torch.Tensor:
    """What the modality's own reading and the processor make of one medium."""
    spec = MODALITIES[modality]
    options = {**spec.options, **options}
    outputs = spec.extract([spec.read(source, processor, options)], processor, options)
    return next(iter(outputs.values()))[0]


def media(found, kind: str) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in found.inputs.items() if re.fullmatch(rf"{kind}\.\d+", name)}


def timepoints(duration: float, seconds: float, clips: int) -> torch.Tensor:
    return torch.tensor([[float(start), float(start + seconds)] for start in clip_starts(duration, seconds, clips)])


def check_images(found, folder):
    image = reloaded(ImageBindImageProcessor(), AutoImageProcessor, folder / "image")
    for name, pixels in media(found, "image").items():
        ours = prepared("image", pixels, image)
        found.check_every(f"{name}.out_s", ours, atol=1e-6, rtol=0)
        found.check(f"{name}.out_win", ours[:, 60:172, 60:172], atol=1e-6, rtol=0)
    thermal = reloaded(ImageBindThermalImageProcessor(), AutoImageProcessor, folder / "thermal")
    for name, values in media(found, "thermal").items():
        found.check_every(f"{name}.out_s", prepared("thermal", values, thermal), atol=1e-6, rtol=0)


def check_audio(found, folder):
    for faithful, part in ((True, "out"), (False, "out_nocouple")):
        extractor = ImageBindAudioFeatureExtractor(faithful=faithful)
        extractor = reloaded(extractor, AutoFeatureExtractor, folder / f"audio{part}")
        for name, waveform in media(found, "audio").items():
            rate = int(found.inputs[f"{name}.sr"])
            file = folder / f"{name}.wav"
            soundfile.write(file, waveform.T, rate, subtype="FLOAT")
            found.check(f"{name}.{part}", prepared("audio", file, extractor), atol=1e-4, rtol=0)
            at_16k = torchaudio.functional.resample(torch.from_numpy(waveform), rate, 16000)
            found.check(f"{name}.resampled", at_16k, atol=1e-6, rtol=0)
            found.check(f"{name}.timepoints", timepoints(at_16k.shape[1] / 16000, 2, 3), atol=1e-12, rtol=0)


def check_videos(found, folder):
    processor = reloaded(ImageBindVideoProcessor(), AutoVideoProcessor, folder / "video")
    for name, frames in media(found, "video").items():
        fps = float(found.inputs[f"{name}.fps"])
        ours = prepared("video", {"frames": frames, "fps": fps}, processor)
        found.check_every(f"{name}.out_s", ours, first=3, atol=1e-5, rtol=0)
        found.check(f"{name}.out_win", ours[1][..., 64:160, 64:160], atol=1e-5, rtol=0)
        found.check(f"{name}.mean", ours.double().mean((-1, -2)), atol=1e-6, rtol=0)
        found.check(f"{name}.std", ours.double().std((-1, -2)), atol=1e-6, rtol=0)
        found.check(f"{name}.timepoints", timepoints(len(frames) / fps, 2, 5), atol=1e-12, rtol=0)
        found.check(f"{name}.frame_idx", torch.tensor(processor.frame_indices(len(frames), fps)), atol=0, rtol=0)


def check_text(found):
    try:
        tokenizer = AutoTokenizer.from_pretrained("openai/clip-vit-large-patch14")
    except OSError:
        found.skip(r"text\..*", "needs CLIP's vocabulary, which is on the Hub")
        return
    for name, keep_end in (("text.ids", True), ("text.ids_pandagpt", False)):
        found.check(name, tokenize(tokenizer, found.config["texts"], keep_end=keep_end), atol=0, rtol=0)


def test_equals_the_original(recording, tmp_path):
    found = recording("imagebind_preprocessing")
    check_images(found, tmp_path)
    check_audio(found, tmp_path)
    check_videos(found, tmp_path)
    check_text(found)
    found.finish()


def test_recorded_copies_cut_as_ours(recording):
    """What can be said without the vocabulary: ImageBind cuts words, so that an end is always there; the copy in
    PandaGPT cuts the end instead. All else is the same, and padding is zeros."""
    found = recording("imagebind_preprocessing")
    if not {"text.ids", "text.ids_pandagpt"} <= set(found.outputs):
        pytest.skip("no texts were recorded")
    begin, end = 49406, 49407
    for ids, copy in zip(found.outputs["text.ids"], found.outputs["text.ids_pandagpt"], strict=True):
        assert ids[0] == begin and end in ids
        assert torch.equal(ids[:-1], copy[:-1])
        last = (ids == end).nonzero().max()
        assert not ids[last + 1 :].any()
        assert torch.equal(ids, copy) or last == len(ids) - 1
