"""The processor is loaded as it was saved, with all that is known of its modalities."""

import copy
import json

import pytest
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    Wav2Vec2FeatureExtractor,
)

from modeling_tests import chat_templates, tiny
from modeling_tests.processor_batches import MODALITIES, plain, random_chats, words
from transformers_anymodality import AnyModalityProcessor
from transformers_anymodality.processing.chat import extend_template
from transformers_anymodality.processing.loading import modality_inputs


def test_round_trip_in_a_fresh_folder(processor, tmp_path):
    processor.save_pretrained(tmp_path / "one")
    once = AutoProcessor.from_pretrained(tmp_path / "one")
    once.save_pretrained(tmp_path / "two")
    again = AutoProcessor.from_pretrained(tmp_path / "two")
    chats = random_chats(4, 7) + [words("what is <image> this ?")]
    expected = plain(tiny.inputs(processor, *chats))
    for loaded in (once, again):
        assert type(loaded) is AnyModalityProcessor
        assert loaded.chat_template == loaded.tokenizer.chat_template == processor.chat_template
        assert loaded.to_dict() == processor.to_dict()
        assert loaded.tokenizer.padding_side == "left"
        assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        assert {f"{name}_token": getattr(loaded.tokenizer, f"{name}_token") for name in MODALITIES} == {
            f"{name}_token": f"<{name}>" for name in MODALITIES
        }
        assert plain(tiny.inputs(loaded, *chats)) == expected
    names = {file.name for file in (tmp_path / "two").iterdir()}
    assert {"processor_config.json", "chat_template.jinja", "tokenizer.json"} <= names
    assert {file.name for file in (tmp_path / "one").iterdir()} == names


def test_what_is_known_of_a_modality_passes_through_json():
    wave = {"tower": tiny.wav2vec2_config(), "processor": Wav2Vec2FeatureExtractor(return_attention_mask=True)}
    _, processor = tiny.composite(settings={"audio": {**wave, "aligner": "linear"}, **tiny.modalities("image")})
    assert (processor.modalities["audio"].num_tokens, processor.modalities["image"].num_tokens) == (None, 3)
    for name, own in processor.modalities.items():
        assert own.main_input == {"audio": "input_values", "image": "pixel_values"}[name]
        again = modality_inputs(name, json.loads(json.dumps(own.to_dict())))
        assert type(again.tower) is type(own.tower) and again.to_dict() == own.to_dict()
    fields = {**processor.modalities["audio"].to_dict(), "tower": {"model_type": "unheard_of"}}
    with pytest.raises(ValueError, match="`audio: tower` has an unknown model type 'unheard_of'"):
        modality_inputs("audio", fields)


def test_sub_processors_load_by_their_own_auto_classes(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == processor.image_processor.to_dict()
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == processor.feature_extractor.to_dict()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.image_token == "<image>" and tokenizer.chat_template == processor.chat_template
    assert tokenizer.imu_token_id == processor.imu_token_id


def test_several_templates_are_kept(tmp_path):
    chatml = chat_templates.CHATML
    processor = chat_templates.processor("chatml")
    tokens = {name: row.token for name, row in processor.modalities.items()}
    templates = {
        "default": chatml,
        "loud": chatml.replace("message.content + '<|im_end|>'", "message.content|upper + '<|im_end|>'"),
    }
    extended = extend_template(templates, tokens)
    assert set(extended) == {"default", "loud"}
    processor = copy.deepcopy(processor)
    processor.chat_template = processor.tokenizer.chat_template = extended
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.chat_template == extended
    chat = tiny.chat("image", "what")
    assert "<image> what " in loaded.apply_chat_template(chat)
    assert "<IMAGE> WHAT " in loaded.apply_chat_template(chat, chat_template="loud")
    assert loaded.encode_chat([*words("yes"), {"role": "assistant", "content": "no"}])[0]
