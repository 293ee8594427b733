"""mPLUG-Owl against what its own code gave: both language models, the video release, and the processor."""

import re

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, LlamaConfig

from transformers_anymodality import compose
from transformers_anymodality.conversion import Options, Release, find_tokenizer
from transformers_anymodality.systems.mplug_owl import mplug_owl
from transformers_anymodality.systems.mplug_owl.tower import MplugOwlVisionConfig


@pytest.mark.parametrize("name", ["mplug_owl", "mplug_owl_bloom", "mplug_owl_video"])
def test_equals_the_original(recording, converted, name):
    found = recording(name)
    found.replay("mplug_owl", converted("mplug_owl", found.folder))
    found.finish()


def saved_processor(folder, place):
    """Of the video release, which has both media, around tiny parts; reloaded, as users have it."""
    tokenizer = find_tokenizer(Release(folder), Options())
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = MplugOwlVisionConfig(**sizes, image_size=224, patch_size=56, temporal=True)
    compose(
        **mplug_owl(
            LlamaConfig(vocab_size=len(tokenizer), **sizes),
            tokenizer,
            release="video",
            towers={"image": tower},
            aligners={"depth": 1, "num_heads": 2, "intermediate_size": 16},
        )
    )[1].save_pretrained(place)
    return AutoProcessor.from_pretrained(place)


def test_processor_equals_the_original(recording, tmp_path):
    found = recording("mplug_owl_processing")
    if not (found.folder / "tokenizer.json").is_file():
        pytest.skip("recorded without a tokenizer")
    ours = saved_processor(found.folder, tmp_path)
    check_text(found, ours)
    check_images(found, ours)
    check_videos(found, ours)
    found.finish()


def check_images(found, ours) -> None:
    for name in (name for name in found.inputs if re.fullmatch(r"image\.\d+", name)):
        pixels = ours(images=[found.inputs[name].numpy()], return_tensors="pt")["pixel_values"][0]
        found.check_every(f"{name}.out_s", pixels, atol=1e-6, rtol=0)


def check_videos(found, ours) -> None:
    for name in (name for name in found.inputs if re.fullmatch(r"video\.\d+", name)):
        blocks = found.inputs[name].numpy()  # each stands for a square of equal pixels
        video = blocks.repeat(224 // blocks.shape[1], axis=1).repeat(224 // blocks.shape[2], axis=2)
        ours.video_processor.num_frames = int(found.inputs[f"{name}.num_frames"])
        found.check(f"{name}.frame_idx", torch.tensor(ours.video_processor.frame_indices(len(video), 25.0)))
        pixels = ours(videos=[video], return_tensors="pt")["pixel_values_videos"][0]
        found.check_every(f"{name}.out_s", pixels.transpose(0, 1), atol=1e-6, rtol=0)


def check_text(found, ours) -> None:
    """Prompts, with the release's negative ids for media."""
    media = {"image": np.zeros((9, 9, 3), np.uint8), "video": np.zeros((5, 9, 9, 3), np.uint8)}
    for case in (name.removeprefix("prompts_") for name in found.config if name.startswith("prompts_")):
        prompts = found.config[f"prompts_{case}"]
        given = {
            f"{name}s": [[medium] * prompt.count(getattr(ours, f"{name}_token")) for prompt in prompts]
            for name, medium in media.items()
        }
        encoding = ours(text=prompts, **given, padding_side="right", return_tensors="pt")
        ids = encoding["input_ids"]
        for theirs, name in ((-1, "image"), (-2, "video")):
            ids = ids.masked_fill(ids == getattr(ours, f"{name}_token_id"), theirs)
        found.check(f"{case}.input_ids", ids)
        found.check(f"{case}.attention_mask", encoding["attention_mask"].float())
