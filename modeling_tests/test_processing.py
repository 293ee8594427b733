"""The processor: text, chats and media of every modality, batched and mixed, to exactly the right model inputs."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, AutoVideoProcessor, VideoMAEConfig, VideoMAEVideoProcessor

from modeling_tests import chat_templates, tiny
from modeling_tests.processor_batches import MODALITIES, ids, plain, random_chats, rows, words


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_mixed_batch_is_its_samples_put_together(processor, seed):
    chats = random_chats(5, seed)
    together = tiny.inputs(processor, *chats)
    alone = [tiny.inputs(processor, chat) for chat in chats]
    assert rows(together) == [ids({k: row[k][0] for k in ("input_ids", "attention_mask")}) for row in alone]
    for name in set(together) - {"input_ids", "attention_mask"}:
        assert torch.equal(together[name], torch.cat([row[name] for row in alone if name in row])), name
    for name, row in processor.modalities.items():
        parts = [part for chat in chats for message in chat for part in message["content"] if isinstance(part, dict)]
        media = sum(part["type"] == name for part in parts)
        assert (together["input_ids"] == getattr(processor, f"{name}_token_id")).sum() == media * row.num_tokens
        assert len(together.get(row.main_input, [])) == media


def test_interleaving_keeps_the_order_within_and_between_samples(processor):
    a, b, c = (tiny.medium("image", seed) for seed in range(3))
    chats = [tiny.chat("yes"), tiny.chat("image", "two", "image", seed=0), tiny.chat("image", seed=1)]
    chats[1][0]["content"][0]["image"], chats[1][0]["content"][2]["image"], chats[2][0]["content"][0]["image"] = (
        a,
        b,
        c,
    )
    pixels = tiny.inputs(processor, *chats)["pixel_values"]
    for row, medium in zip(pixels, (a, b, c), strict=True):
        assert torch.equal(row, processor(images=medium)["pixel_values"][0])


def test_padding_is_left_unless_told(processor):
    texts = ["what is this and that ?", "yes"]
    left = processor(text=texts, return_tensors="pt")
    right = processor(text=texts, return_tensors="pt", padding_side="right")
    assert left["attention_mask"].tolist() == [[1] * 6, [0] * 5 + [1]]
    assert right["attention_mask"].tolist() == [[1] * 6, [1] + [0] * 5]
    assert (left["input_ids"][1, :5] == processor.tokenizer.pad_token_id).all()
    assert rows(left) == rows(right)
    assert processor(text=texts, padding=False)["input_ids"] == rows(left)
    assert processor(text=texts, pad_to_multiple_of=8, return_tensors="pt")["input_ids"].shape == (2, 8)
    assert processor(text=texts, padding="max_length", max_length=9, return_tensors="np")["input_ids"].shape == (2, 9)


@pytest.mark.parametrize("name", MODALITIES)
def test_media_may_be_one_a_flat_list_or_a_list_per_prompt(processor, name):
    media, argument = [tiny.medium(name, seed) for seed in range(3)], tiny.ARGUMENTS[name]
    texts = [f"<{name}> what <{name}>", "yes", f"is <{name}>"]

    def call(text, given):
        return plain(processor(text=text, return_tensors="pt", **{argument: given}))

    flat = call(texts, media)
    assert flat == call(texts, [media[:2], [], media[2:]]) == call(texts, [media[:2], None, media[2:]])
    assert flat == call(texts, tuple(media))
    assert call(texts[2], media[2]) == call(texts[2], media[2:]) == call([texts[2]], [media[2:]])
    assert call(texts[1:2], [[]]) == call(texts[1:2], []) == call(texts[1], None)


def test_media_need_no_text_and_text_no_media(processor):
    media = {tiny.ARGUMENTS[name]: tiny.medium(name) for name in MODALITIES}
    outputs = processor(**media, return_tensors="pt")
    assert set(outputs) == {name for row in processor.modalities.values() for name in row.inputs}
    assert set(outputs) | {"input_ids", "attention_mask"} == set(processor.model_input_names)
    assert set(processor(text="yes")) == {"input_ids", "attention_mask"}


def test_items_that_are_lists(processor):
    """Frames of a video, numbers of a sound, rows of a recording: one medium each, though they are lists."""
    frames, sound, rows_ = list(tiny.medium("video")), tiny.medium("audio"), tiny.medium("imu")
    for argument, item, array in (
        ("videos", frames, np.stack(frames)),
        ("audio", sound.tolist(), sound),
        ("audio", (sound, 16000), sound),
        ("imu", rows_.tolist(), rows_),
    ):
        token = {"videos": "<video>"}.get(argument, f"<{argument}>")
        expected = plain(processor(text=token, return_tensors="pt", **{argument: array}))
        for given in (item, [item], [[item]]):
            assert plain(processor(text=[token], return_tensors="pt", **{argument: given})) == expected, argument
        name = token[1:-1]
        chat = [{"role": "user", "content": [{"type": name, name: item}]}]
        assert plain(
            {k: v for k, v in tiny.inputs(processor, chat).items() if "ids" not in k and "mask" not in k}
        ) == {k: v for k, v in expected.items() if "ids" not in k and "mask" not in k}


def test_readings_and_sounds_may_stand_in_their_part(processor):
    walk, sound = tiny.medium("imu"), tiny.medium("audio")
    time = np.arange(len(walk)) / 32
    chat = [
        {
            "role": "user",
            "content": [
                {"type": "imu", "values": walk.tolist(), "time": time.tolist()},
                {"type": "imu", "array": walk, "sampling_rate": 32},
                {"type": "audio", "array": sound.tolist(), "sampling_rate": 16000},
            ],
        }
    ]
    inputs = tiny.inputs(processor, chat)
    torch.testing.assert_close(inputs["imu_values"], processor(imu=[walk, walk])["imu_values"])
    assert torch.equal(inputs["input_features"], processor(audio=sound)["input_features"])


def test_video_processors_of_their_own(tmp_path):
    settings = {
        "tower": VideoMAEConfig(
            image_size=32,
            patch_size=16,
            num_frames=4,
            tubelet_size=2,
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        ),
        "processor": VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        "aligner": "linear",
    }
    model, processor = tiny.composite(settings={"video": settings, "image": tiny.modalities("image")["image"]})
    assert processor.modalities["video"].options["num_frames"] == 4
    processor.save_pretrained(tmp_path)
    assert AutoVideoProcessor.from_pretrained(tmp_path).to_dict() == processor.video_processor.to_dict()
    chat = tiny.chat("video", "image", "what")
    inputs, again = tiny.inputs(processor, chat), tiny.inputs(AutoProcessor.from_pretrained(tmp_path), chat)
    assert inputs["pixel_values_videos"].shape == (1, 4, 3, 32, 32) and plain(inputs) == plain(again)
    assert torch.isfinite(model(**inputs).logits).all()


# --- truncation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_never_cuts_a_medium(processor, side, monkeypatch):
    monkeypatch.setattr(processor.tokenizer, "truncation_side", side)
    text, image = "zero one <image> two three", tiny.medium("image")  # 7 tokens, the image's third to fifth
    if side == "left":
        text = "three two <image> one zero"
    whole = processor(text=text, images=image)["input_ids"][0]
    assert len(whole) == 7
    for limit in range(5, 9):
        (cut,) = processor(text=text, images=image, truncation=True, max_length=limit)["input_ids"]
        assert cut == (whole[:limit] if side == "right" else whole[-limit:])
    for limit in range(1, 5):
        with pytest.raises(ValueError, match=rf"Prompt 0 has 7 tokens; .*max_length={limit} would cut a medium of 3"):
            processor(text=text, images=image, truncation=True, max_length=limit)
    for off in (False, None, "do_not_truncate"):
        assert processor(text=text, images=image, truncation=off, max_length=3)["input_ids"][0] == whole


def test_truncation_of_a_batch_names_the_sample(processor):
    texts = ["zero one two three four", "zero one two <image>"]
    with pytest.raises(ValueError, match="Prompt 1 has 6 tokens"):
        processor(text=texts, images=tiny.medium("image"), truncation=True, max_length=5)
    kept = processor(text=texts, images=tiny.medium("image"), truncation=True, max_length=6)
    assert [sum(row) for row in kept["attention_mask"]] == [5, 6]


# --- counts --------------------------------------------------------------------------------------------------------


def test_wrong_counts_name_sample_modality_expected_given_and_cause(processor):
    image = tiny.medium("image")
    texts = ["<image> yes", "<image> and <image>"]
    for given, message in (
        ([[image], [image]], r"prompt 1 has 2 <image> placeholders, but 1 media of 'image'.*typed into the text"),
        ([[image, image], [image, image]], "prompt 0 has 1 <image> placeholders, but 2 media.*placeholder is missing"),
        ([image, image], "the batch of 2 prompts has 3 <image> placeholders, but 2 media"),
        ([image] * 4, "the batch of 2 prompts has 3 <image> placeholders, but 4 media.*placeholder is missing"),
        ([], "prompt 0 has 1 <image> placeholders, but 0 media"),
        ([[image]], "1 lists of media for 2 prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            processor(text=texts, images=given)
    with pytest.raises(ValueError, match="the prompt has 1 <imu> placeholders, but 2 media of 'imu'"):
        processor(text="<imu>", imu=[tiny.medium("imu")] * 2)
    bare = [words("yes"), [{"role": "user", "content": [{"type": "image"}]}]]
    with pytest.raises(ValueError, match="prompt 1 has 1 <image> placeholders, but 0 media"):
        tiny.inputs(processor, *bare)


# --- what else Transformers asks for ---------------------------------------------------------------------------------


def test_token_types_offsets_and_assistant_masks_follow_the_expanded_media(processor):
    chat = [*tiny.chat("image", "what is this ?", "imu"), {"role": "assistant", "content": "yes no"}]
    inputs = processor.apply_chat_template(
        [chat, chat[:1]],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        processor_kwargs={"return_mm_token_type_ids": True},
    )
    encoded, said = processor.encode_chat(chat)
    repeats = {processor.image_token_id: 3, processor.imu_token_id: 4}
    assert inputs["input_ids"][0] == [i for i in encoded for _ in range(repeats.get(i, 1))]
    assert inputs["assistant_masks"][0] == [
        int(s) for i, s in zip(encoded, said, strict=True) for _ in range(repeats.get(i, 1))
    ]
    assert sum(inputs["assistant_masks"][0]) == 3 and sum(inputs["assistant_masks"][1]) == 0
    types = {processor.image_token_id: 1, processor.imu_token_id: 4}
    assert inputs["mm_token_type_ids"] == [[types.get(i, 0) for i in row] for row in inputs["input_ids"]]


@pytest.mark.parametrize("style", chat_templates.STYLES)
def test_assistant_masks_need_no_generation_tags(style):
    processor = chat_templates.processor(style)
    chats = [[*words("what is this ?"), {"role": "assistant", "content": said}] for said in ("yes", "no, yes and no")]
    settings = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(chats, **settings)
    for i, chat in enumerate(chats):
        kept = inputs["attention_mask"][i].bool()
        found = inputs["input_ids"][i][kept].tolist(), inputs["assistant_masks"][i][kept].bool().tolist()
        assert found == processor.encode_chat(chat)
        assert not inputs["assistant_masks"][i][~kept].any()


def test_what_the_stock_server_says_of_sounds_in_videos_changes_nothing(processor):
    chat = tiny.chat("video", "what is this ?")
    said = tiny.inputs(processor, chat, load_audio_from_video=True)
    assert plain(said) == plain(tiny.inputs(processor, chat))


def test_token_counts_for_serving_are_those_of_the_processor(processor):
    data = processor._get_num_multimodal_tokens(image_sizes=[(40, 48), (9, 9)], audio_lengths=[100])
    assert (
        data["num_image_tokens"] == [3, 3] and data["num_audio_tokens"] == [5] and data["num_image_patches"] == [1, 1]
    )


def test_answers_end_at_a_stop_however_special_tokens_are_left_out(processor):
    cut = type(processor)(processor.tokenizer, text_settings={"stop": ["no"]})
    ids = processor.tokenizer("yes no what", add_special_tokens=False)["input_ids"]
    assert cut.decode(ids, True) == cut.decode(ids, skip_special_tokens=True) == "yes"
    assert cut.batch_decode([ids, ids], True) == ["yes", "yes"]
    assert cut.decode(ids).endswith("what")


def test_what_the_caller_gave_is_left_as_it_was(processor):
    image, sound = tiny.medium("image"), tiny.medium("audio")
    chats = [tiny.chat("image", "what <image>"), tiny.chat("audio", "yes")]
    kwargs = {"padding_side": "right", "images_kwargs": {"do_resize": True}, "audio_kwargs": {}}
    before = copy.deepcopy((chats, kwargs)), copy.deepcopy(processor.to_dict()), processor.tokenizer.get_vocab()
    tiny.inputs(processor, *chats, processor_kwargs=kwargs)
    tiny.inputs(processor, chats[1], processor_kwargs=kwargs)
    processor(text="<image> <audio>", images=[image], audio=[sound], **copy.deepcopy(kwargs))
    assert repr(before[0]) == repr((chats, kwargs))
    assert processor.to_dict() == before[1] and processor.tokenizer.get_vocab() == before[2]
