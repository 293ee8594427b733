"""Bad arguments and chats are refused by a clear error, and leave the processor and what was given as they were. And
processors that do not load."""

import copy

import pytest

from modeling_tests import tiny
from modeling_tests.checks import refused


# --- text and arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({}, "Give text, media, or both"),
        ({"text": []}, "Give text, media, or both|empty"),
        ({"images": []}, "Give text, media, or both"),
        ({"text": 5}, "`text` must be a string or a list of strings"),
        ({"text": [5]}, "`text` must be a string or a list of strings"),
        ({"text": [None]}, "`text` must be a string or a list of strings"),
        ({"text": b"yes"}, "`text` must be a string or a list of strings"),
        ({"text": "<image>", "images": 5}, "image 0: "),
    ],
)
def test_calls_without_sense(processor, kwargs, message):
    with refused(processor, message, kwargs):
        processor(**kwargs)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"paddin": True}, "'paddin'.*Did you mean 'padding'"),
        ({"text_kwargs": {"paddin": True}}, "'paddin'.*text_kwargs.*Did you mean 'padding'"),
        ({"image": 0}, "'image'.*Did you mean 'images'"),
        ({"video": 0}, "'video'.*Did you mean 'videos'"),
        ({"imus": 0}, "'imus'.*Did you mean 'imu'"),
        ({"image_kwargs": {}}, "'image_kwargs'.*Did you mean 'images_kwargs'"),
        ({"images_kwargs": {"do_resiz": True}}, "do_resiz"),
        ({"audio_kwargs": {"paddings": True}}, "'paddings'.*audio_kwargs"),
        ({"imu_kwargs": {"mena": 0}}, "'mena'.*imu_kwargs"),
        ({"allow_url": True}, "'allow_url'.*Did you mean 'allow_urls'"),
        ({"text_pair": "no"}, "text_pair"),
        ({"return_overflowing_tokens": True}, "return_overflowing_tokens"),
        ({"return_length": True}, "return_length"),
    ],
)
def test_unknown_arguments(processor, kwargs, message):
    media = {"images": [tiny.medium("image")], "audio": [tiny.medium("audio")], "imu": [tiny.medium("imu")]}
    with refused(processor, message, kwargs, media, kind=TypeError):
        processor(text="<image> <audio> <imu>", **media, **kwargs)
    chat = tiny.chat("image", "audio", "imu")
    with refused(processor, message, kwargs, chat, kind=TypeError):
        tiny.inputs(processor, chat, processor_kwargs=kwargs)


def test_unknown_arguments_matter_without_media_too(processor):
    with refused(processor, "'do_resiz'", kind=TypeError):
        processor(text="yes", do_resiz=True)
    with refused(processor, "Unknown keyword arguments .'enable_thinkin'.", kind=TypeError):
        tiny.inputs(processor, [{"role": "user", "content": "yes"}], enable_thinkin=True)


@pytest.mark.parametrize(
    "chat, message",
    [
        ([], "no messages"),
        ([[]], "no messages"),
        ([[{"role": "user", "content": "yes"}], []], "no messages"),
        ("what is this ?", "list of messages"),
        (None, "list of messages"),
        (
            [{"role": "user", "content": [{"type": "imgae", "path": "a.png"}]}],
            "part of type 'imgae'.*Did you mean 'image'",
        ),
        ([{"role": "user", "content": [{"type": "image"}]}], "1 <image> placeholders, but 0 media"),
        ([{"role": "user", "content": [{"type": "image", "image": None}]}], "1 <image> placeholders, but 0 media"),
        ([{"role": "user", "content": [5]}], "Message 0 has a part that is neither"),
        (
            [{"role": "user", "content": [{"type": "text", "text": None}]}],
            "Message 0 has a text part whose text is None",
        ),
        ([{"role": "user", "content": [{"text": 5}]}], "Message 0 has a text part whose text is 5"),
        ([{"role": "user", "content": {"type": "text", "text": "yes"}}], "Message 0 has a dict as its content"),
        ([{"role": "user", "content": "yes"}, {"content": "yes"}], "Message 1 is not a dict with a role"),
        (["yes"], "messages that are not dicts"),
    ],
)
def test_chats_without_sense(processor, chat, message):
    with refused(processor, message, chat):
        processor.apply_chat_template(chat, tokenize=True, return_dict=True)


def test_a_chat_template_that_is_not_there(processor):
    bare = copy.copy(processor)
    bare.chat_template = None
    with refused(bare, "has no default chat template"):
        bare.apply_chat_template([{"role": "user", "content": "yes"}], tokenize=True)


# --- loading -------------------------------------------------------------------------------------------------------


def test_processors_that_do_not_load(processor, tmp_path):
    import json

    from transformers import AutoProcessor

    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    good = json.loads(file.read_text())
    for damage, message in (
        (
            lambda c: c["modalities"].update(imge=c["modalities"]["image"]),
            "Unknown modality 'imge'. Did you mean 'image'",
        ),
        (lambda c: c.pop("imu_feature_extractor"), "imu_feature_extractor"),
        (lambda c: c["modalities"]["image"].update(token="<picture>"), "'<picture>'.*tokenizer"),
    ):
        config = copy.deepcopy(good)
        damage(config)
        file.write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            AutoProcessor.from_pretrained(tmp_path)
    with pytest.raises(OSError):
        AutoProcessor.from_pretrained(tmp_path / "nowhere")
