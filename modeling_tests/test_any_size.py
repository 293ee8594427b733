"""Items of any size: whatever stands together in a batch, each medium is what it is by itself."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    GotOcr2ImageProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from modeling_tests import any_size, tiny
from modeling_tests.checks import TIGHT, last_logits
from modeling_tests.tiny_aligners import SMALL
from transformers_anymodality import AnyModalityDataCollator, MediaError, set_trainable
from transformers_anymodality.aligners import ALIGNERS
from transformers_anymodality.features import FeatureStore, build_features
from transformers_anymodality.hub.inspect import inspect_model
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.model.frames import take_media
from transformers_anymodality.training.packing import AnyModalityPackingCollator
from transformers_anymodality.utils.upstream import CACHE_NAME


CHATS = [any_size.chat(row) for row in any_size.ROWS]
SAMPLES = [{"messages": any_size.chat(row, "red")} for row in any_size.ROWS]


@pytest.fixture(scope="module", autouse=True)
def _document():
    any_size.register_document()
    yield
    del MODALITIES["document"]


@pytest.fixture(scope="module")
def made():
    return any_size.composite()


def aligners() -> list:
    """Each registered aligner, and all its settings with `-m slow`. One with an embedding for each frame cannot know how many
    there will be."""
    cases = [
        (name, i) for name in ALIGNERS for i, one in enumerate(SMALL[name]) if one.get("self_attention") != "temporal"
    ]
    return [pytest.param(name, i, marks=[pytest.mark.slow] if i else []) for name, i in cases]


@pytest.mark.parametrize("name, case", aligners())
def test_batched_equals_one_by_one(name, case):
    settings = dict(SMALL[name][case])
    settings |= {key: 8 for key in ("frame_embeddings", "time_embeddings") if key in settings}
    settings |= {"token_size": 24} if settings.get("token_size") == 12 else {}
    settings |= {"align_heads": 4} if "align_heads" in settings else {}
    model, processor = any_size.composite({"type": name, **settings})
    alone = torch.cat([last_logits(model, tiny.inputs(processor, chat)) for chat in CHATS])
    for side in ("left", "right"):
        together = last_logits(model, tiny.inputs(processor, *CHATS, processor_kwargs={"padding_side": side}))
        torch.testing.assert_close(together, alone, **TIGHT)
    assert (alone[2] - alone[3]).abs().max() > 1e-2


def test_media_matter(made):
    model, processor = made
    for row, (place, other) in zip((0, 0, 2, 2, 3), [(0, 16), (3, 0.3), (0, 30), (2, 1.5), (2, 1.0)], strict=True):
        kind = any_size.ROWS[row][place][0]
        make = {"image": lambda s: any_size.image(s, 24, 9), "document": lambda s: any_size.image(s, s, 9)}
        make |= {"audio": lambda s: any_size.sound(s, 9), "video": lambda s: any_size.video(s, 9)}
        changed = [*any_size.ROWS[row]]
        changed[place] = (kind, make[kind](other))
        before, after = (
            last_logits(model, tiny.inputs(processor, any_size.chat(one))) for one in (any_size.ROWS[row], changed)
        )
        assert (before - after).abs().max() > 1e-4, kind


def test_tokens_follow_content(made):
    _, processor = made
    media = {
        "audio": [any_size.sound(s) for s in (0.08, 1.0, 1.02, 4.0)],
        "video": [any_size.video(s) for s in (1, 3, 60)],
    }
    media |= {"image": [any_size.image(8, 8), any_size.image(8, 80), any_size.image(400, 400)]}
    inputs, counts = processor.process_media(media)
    assert counts["audio"] == [1, 13, 14, 52]  # 50 features for each second, four of them a token
    assert inputs["audio_frames"].tolist() == [1, 1, 2, 4] and len(inputs["input_features"]) == 8
    assert counts["video"] == [17, 51, 85]
    assert counts["image"] == [1, 10, 64]
    with pytest.raises(ValueError, match="audio 0: 4.1 s are 5 windows of 1.0 s, but the model takes 4, 4.0 s"):
        processor.process_media({"audio": [any_size.sound(4.1)]})


@pytest.mark.parametrize("name, main", [("image", "pixel_values"), ("document", "document_values")])
def test_a_value_that_is_not_finite_is_of_its_medium(made, name, main):
    """Of images that are several rows of patches, or several tiles."""
    _, processor = made
    inputs, _ = processor.process_media({name: [any_size.image(32, 64), any_size.image(64, 32), any_size.image(8, 8)]})
    inputs[main][len(inputs[main]) // 2] = torch.nan
    with pytest.raises(MediaError, match=f"{name} 1: .* gives nan for it"):
        processor._check_finite(name, [np.zeros(1)] * 3, inputs)


def test_tiles_are_those_of_the_stock_image_processor(made):
    _, processor = made
    images = [any_size.image(30, 30), any_size.image(20, 70), any_size.image(64, 33)]
    stock = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    expected = stock(images=[Image.fromarray(one) for one in images], return_tensors="pt")
    inputs, counts = processor.process_media({"document": images})
    assert torch.equal(inputs["document_values"], expected["pixel_values"])
    assert inputs["document_frames"].tolist() == expected["num_patches"].tolist()
    assert counts["document"] == [3, 3, 3]


def test_videos_in_patches_are_those_of_the_stock_video_processor(tmp_path):
    """A tower that is borrowed brings its own, which makes one grid of all frames of a video."""
    config = any_size.vision_config()
    config.temporal_patch_size = 2
    sizes: Any = dict(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 2**16})
    stock = Qwen2VLVideoProcessor(**sizes)
    for part in (AutoModel.from_config(config), Qwen2VLImageProcessor(**sizes), stock):
        part.save_pretrained(tmp_path)
    settings = {
        "image": {"tower": tmp_path, "aligner": "mlp"},
        "video": {"tower": "image", "aligner": "mlp", "fps": 1},
    }
    model, processor = tiny.composite(settings=settings)
    videos = [any_size.video(2), any_size.video(0.5), any_size.video(6, 1)]
    options = processor.modalities["video"].options
    frames = [MODALITIES["video"].read(video, stock, options) for video in videos]
    assert [len(one) for one in frames] == [2, 1, 6]
    expected = stock(videos=frames, do_sample_frames=False, return_tensors="pt")
    inputs, counts = processor.process_media({"video": videos})
    assert all(torch.equal(inputs[key], value) for key, value in expected.items())
    assert counts["video"] == [30, 30, 90] == (expected["video_grid_thw"].prod(-1) // 4).tolist()
    chats = [any_size.chat([("video", video), "what"]) for video in videos]
    alone = torch.cat([last_logits(model, tiny.inputs(processor, chat)) for chat in chats])
    torch.testing.assert_close(last_logits(model, tiny.inputs(processor, *chats)), alone, **TIGHT)


def test_beams_and_several_answers(made):
    model, processor = made
    settings = dict(max_new_tokens=4, num_beams=3, num_return_sequences=2, do_sample=False)
    inputs = tiny.inputs(processor, *CHATS)
    together = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
    for i, chat in enumerate(CHATS):
        one = tiny.inputs(processor, chat)
        alone = model.generate(**one, **settings)[:, one["input_ids"].shape[1] :]
        assert together[2 * i : 2 * i + 2, : alone.shape[1]].tolist() == alone.tolist()


def test_turns_with_a_cache(made):
    """New media of a conversation are found behind what a cache holds."""
    model, processor = made
    first, second = CHATS[0], [*CHATS[0], {"role": "assistant", "content": "red"}, *CHATS[2]]
    before, whole = tiny.inputs(processor, first), tiny.inputs(processor, second)
    expected = model.generate(**whole, max_new_tokens=4, do_sample=False)
    done = model.generate(**before, max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
    told = {CACHE_NAME: done[CACHE_NAME], "max_new_tokens": 4, "do_sample": False}
    assert model.generate(**whole, **told).tolist() == expected.tolist()


def test_reloaded_equals_saved(made, tmp_path):
    model, processor = made
    model.save_pretrained(tmp_path, processor=processor)
    again, processor_again = AutoModelForCausalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    inputs, inputs_again = tiny.inputs(processor, *CHATS), tiny.inputs(processor_again, *CHATS)
    assert {k: v.tolist() for k, v in inputs.items()} == {k: v.tolist() for k, v in inputs_again.items()}
    assert torch.equal(last_logits(model, inputs), last_logits(again, inputs_again))


def test_items_are_taken_with_all_that_is_theirs(made):
    _, processor = made
    media = {"image": [any_size.image(8, 8 * (1 + i), i) for i in range(4)]}
    media |= {"audio": [any_size.sound(0.7 * (1 + i), i) for i in range(4)], "document": [any_size.image(20, 70)] * 4}
    inputs, _ = processor.process_media(media)
    for name, items in media.items():
        chosen, _ = processor.process_media({name: [items[i] for i in (3, 1)]})
        taken = take_media(name, processor.modalities[name], inputs, [3, 1])
        assert taken.keys() == chosen.keys()
        for key in chosen:
            torch.testing.assert_close(taken[key], chosen[key], **TIGHT)


def test_sizes_that_are_missing_or_wrong_are_errors(made):
    model, processor = made
    inputs = tiny.inputs(processor, CHATS[0], CHATS[2])
    needed = {f"{name}_frames": "frames" for name in ("audio", "document", "video")}
    needed |= {"image_grid_thw": "image_grid_thw", "image_feature_lengths": "feature_lengths"}
    for name, said in needed.items():
        with pytest.raises(ValueError, match=f"was given without {said}, which"):
            model(**{key: value for key, value in inputs.items() if key != name})
    for name, wrong in (("audio_frames", [1, 1]), ("image_feature_lengths", [6, 6]), ("video_frames", [1])):
        with pytest.raises(ValueError, match="Pass the processor's full output"):
            model(**{**inputs, name: torch.tensor(wrong)})


def gradients(model, *batches) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for batch in batches:
        model(**batch, num_items_in_batch=torch.tensor(4)).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_packed_rows_and_stored_features_give_the_same_loss_and_gradients(made, tmp_path):
    model, processor = copy.deepcopy(made[0]), made[1]
    set_trainable(model, ["aligners", "language_model"], verbose=False)
    model.train()
    collator = AnyModalityDataCollator(processor)
    alone = gradients(model, *(collator([sample]) for sample in SAMPLES))
    build_features(model, processor, SAMPLES, tmp_path, verbose=False)
    stored = FeatureStore(tmp_path, model)
    batches = {
        "together": collator(SAMPLES),
        "packed": AnyModalityPackingCollator(processor, max_length=400, model=model)(SAMPLES),
        "stored": AnyModalityDataCollator(processor, features=stored)(SAMPLES),
        "both": AnyModalityPackingCollator(processor, max_length=400, model=model, features=stored)(SAMPLES),
    }
    assert "pixel_values" not in batches["stored"] and len(batches["packed"]["input_ids"]) < 4
    for batch in batches.values():
        found = gradients(model, batch)
        assert found.keys() == alone.keys()
        for name in alone:
            torch.testing.assert_close(found[name], alone[name], atol=1e-4, rtol=1e-3)


def test_every_trained_part_learns_also_without_its_media(made):
    model, processor = copy.deepcopy(made[0]), made[1]
    set_trainable(model, "all", verbose=False)
    model.train()
    model(**AnyModalityDataCollator(processor)(SAMPLES[1:2])).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_inspection_says_how_many_tokens_media_may_have(made):
    found = {one.name: (one.tokens, one.least, one.most) for one in inspect_model(*made).modalities}
    assert found == {
        "audio": (None, 1, 52),
        "document": (None, 3, 3),
        "image": (None, None, None),
        "video": (None, 17, 85),
    }
    assert "1 to 52" in str(inspect_model(*made))


def test_bad_settings_are_refused():
    for name, setting, message in (
        ("document", {"tiles": 0}, "tiles is 0"),
        ("audio", {"windows": True}, "windows is True"),
        ("audio", {"overlap": 1.0}, "overlap is 1.0; it must be from 0 to below the 1 seconds"),
    ):
        settings = {name: {**any_size.modalities()[name], **setting}}
        with pytest.raises(ValueError, match=message):
            tiny.composite(settings=settings)


def test_timestamps_stand_between_frames():
    settings = any_size.modalities()
    model, processor = tiny.composite(settings={**settings, "video": {**settings["video"], "timestamps": True}})
    token = processor.prompt_tokenizer.placeholders["video"]
    rows = [[("video", any_size.video(3.5)), "what", ("video", any_size.video(0.5, 1))], ["what"]]
    inputs = tiny.inputs(processor, *map(any_size.chat, rows))
    ids = inputs["input_ids"][0].tolist()
    # Each time is two words that this tokenizer does not know.
    assert ids == [4, 5, *([3, 3, *[token] * 17] * 4), 8, *[3, 3, *[token] * 17], 6, 5]
    together, alone = last_logits(model, inputs), last_logits(model, tiny.inputs(processor, any_size.chat(rows[0])))
    torch.testing.assert_close(together[:1], alone, **TIGHT)
    batch = AnyModalityDataCollator(processor)([{"messages": any_size.chat(rows[0], "red")}])
    assert (batch["labels"] >= 0).sum() == 2
    for changed, message in (({"fps": None}, "set `fps`"), ({"aligner": tiny.RESAMPLER}, "leave out `timestamps`")):
        with pytest.raises(ValueError, match=message):
            tiny.composite(settings={**settings, "video": {**settings["video"], "timestamps": True, **changed}})


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"max_pixels": 1024, "min_pixels": 512}, 16),
        pytest.param({"max_tokens": 30}, 30, marks=[pytest.mark.slow]),
    ],
)
def test_most_tokens_of_an_image(options, most):
    _, processor = tiny.composite(settings={"image": {**any_size.modalities()["image"], **options}})
    images = [any_size.image(h, w) for h, w in ((8, 8), (400, 400), (100, 300), (900, 500))]
    counts = processor.process_media({"image": images})[1]["image"]
    assert counts[0] == (9 if "min_pixels" in options else 1)
    assert 0.7 * most < max(counts) <= most


def test_limits_that_a_processor_lacks_are_refused():
    plain = {"tower": tiny.vision_config(), "processor": tiny.image_processor(), "aligner": "linear"}
    for options, message in (
        ({"max_tokens": 5}, "max_tokens=5 of 'image' cannot be reached: the limits of CLIPImageProcessor leave 17"),
        ({"max_pixels": 99}, "max_pixels is set, but CLIPImageProcessor has no pixel limits"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.composite(settings={"image": {**plain, **options}})


def test_windows_overlap():
    settings = {"audio": {**any_size.modalities()["audio"], "overlap": 0.25}}
    _, processor = tiny.composite(settings=settings)
    whole = any_size.sound(2.0)
    inputs, _ = processor.process_media({"audio": [whole]})
    pieces = [whole[:16000], whole[12000:28000], whole[24000:]]
    expected = processor.feature_extractor(pieces, sampling_rate=16000, return_tensors="pt")["input_features"]
    np.testing.assert_allclose(inputs["input_features"], expected, atol=1e-6)
    assert inputs["audio_feature_lengths"].tolist() == [50, 50, 25]
