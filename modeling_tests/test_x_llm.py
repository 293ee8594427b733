"""X-LLM's parts beyond its recordings: the CIF against its recursion, speech interface, media, prompts, sound files."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoVideoProcessor

from modeling_tests import tiny
from modeling_tests.checks import last_logits
from modeling_tests.tiny_systems import TINY, byte_tokenizer, system
from transformers_anymodality import MediaError, compose
from transformers_anymodality.processing.tokenization import PIECE_END
from transformers_anymodality.systems import SYSTEMS
from transformers_anymodality.systems.x_llm.aligner import SpeechInterfaceAligner, SpeechInterfaceAlignerConfig
from transformers_anymodality.systems.x_llm.cif import CifConfig, CifModel
from transformers_anymodality.systems.x_llm.media import TokenFeatureExtractor, XLlmVideoProcessor


# --- continuous integrate-and-fire -------------------------------------------------------------------------------------


def one_by_one(cif: CifModel, frames: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The tokens of one item, `(tokens, dim)`, by going from frame to frame."""
    tokens, weight, state = [], 0.0, torch.zeros(frames.shape[-1])
    for frame, new in zip(frames, weights.tolist(), strict=True):
        if weight + new >= cif.config.threshold:
            tokens.append(state + (1 - weight) * frame)
            weight = new - (1 - weight)
            state = weight * frame
        else:
            weight, state = weight + new, state + new * frame
    if not cif.training and weight > cif.config.tail_threshold:
        tokens.append(state / weight)
    return torch.stack(tokens) if tokens else torch.zeros(0, frames.shape[-1])


def cif_model(**settings) -> CifModel:
    torch.manual_seed(0)
    model = CifModel(CifConfig(feature_size=6, hidden_size=6, **settings)).eval()
    tiny.spread(model, 0.5)
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("threshold", [0.99, 1.0, 0.6])
@pytest.mark.parametrize("weights", ["conv", "dense", "linear"])
def test_cif_equals_its_recursion(weights, threshold, training):
    cif = cif_model(weights=weights, threshold=threshold).train(training)
    lengths = torch.tensor([1, 7, 40, 23])
    mask = torch.arange(40) < lengths[:, None]
    frames = torch.randn(4, 40, 6) * mask[..., None]
    output = cif(frames, mask)
    for item, length in enumerate(lengths):
        expected = one_by_one(cif, frames[item, :length], cif.frame_weights(frames, mask)[item, :length])
        assert output.counts[item] == len(expected)
        torch.testing.assert_close(output.last_hidden_state[item, : len(expected)], expected, atol=1e-5, rtol=1e-4)
        assert not output.last_hidden_state[item, len(expected) :].any()
    assert output.attention_mask.sum(-1).tolist() == output.counts.tolist()


def test_cif_gives_as_many_tokens_as_asked_for():
    cif = cif_model(weights="linear", threshold=1.0).train()
    frames, targets = torch.randn(40, 60, 6), torch.randint(1, 20, (40,))
    assert torch.equal(cif(frames, target_lengths=targets).counts, targets)
    # By the rounding of the public implementation, some lack the last one.
    cif.config.faithful = True
    assert set((targets - cif(frames, target_lengths=targets).counts).tolist()) == {0, 1}


def test_cif_of_a_long_recording_is_exact():
    cif = cif_model(weights="linear")
    frames = torch.randn(1, 5000, 6)
    exact = copy.deepcopy(cif).double()
    weights = cif.frame_weights(frames, torch.ones(1, 5000, dtype=torch.bool))
    expected = one_by_one(exact, frames[0].double(), weights[0].double())
    torch.testing.assert_close(cif(frames).last_hidden_state[0].double(), expected, atol=1e-4, rtol=1e-4)


def test_cif_of_no_frames_and_in_half_precision():
    cif = cif_model().to(torch.bfloat16)
    mask = torch.tensor([[True] * 9, [False] * 9])
    output = cif(torch.randn(2, 9, 6, dtype=torch.bfloat16), mask)
    assert output.counts[1] == 0 and output.counts[0] > 0
    assert output.last_hidden_state.dtype == torch.bfloat16
    none = cif(torch.randn(1, 3, 6, dtype=torch.bfloat16), torch.zeros(1, 3, dtype=torch.bool))
    assert none.last_hidden_state.shape == (1, 0, 6)


def test_cif_is_saved_and_learns(tmp_path):
    cif = CifModel(CifConfig(feature_size=6, hidden_size=10)).train()
    cif.save_pretrained(tmp_path)
    again, frames = AutoModel.from_pretrained(tmp_path).train(), torch.randn(2, 30, 6)
    output = again(frames, target_lengths=torch.tensor([5, 8]))
    assert torch.equal(output.last_hidden_state, cif(frames, target_lengths=torch.tensor([5, 8])).last_hidden_state)
    (output.last_hidden_state.square().sum() + output.quantity.sum()).backward()
    assert [name for name, p in again.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    with pytest.raises(ValueError, match='weights=.*"conv", "dense" or "linear"'):
        CifConfig(weights="dens")
    with pytest.raises(ValueError, match="conv_width=4 must be odd"):
        CifConfig(conv_width=4)


# --- the speech interface ----------------------------------------------------------------------------------------------


def interface(**settings) -> SpeechInterfaceAligner:
    sizes = dict(depth=1, num_heads=2, bert_hidden_size=16, intermediate_size=24, num_tokens=6, hidden_size=8)
    torch.manual_seed(0)
    aligner = SpeechInterfaceAligner(SpeechInterfaceAlignerConfig(**{**sizes, "feature_size": 12, **settings})).eval()
    tiny.spread(aligner)
    return aligner


def test_rows_of_zeros_are_not_read():
    aligner = interface(token_size=12)
    features = torch.randn(1, 1, 4, 12)
    tokens, used = aligner(torch.cat([features, torch.zeros(1, 1, 2, 12)], dim=2))
    assert used.tolist() == [[True] * 4 + [False] * 2]
    torch.testing.assert_close(
        tokens[:, :4], interface(token_size=12, num_tokens=4)(features)[0], atol=1e-6, rtol=1e-5
    )
    seen = interface(token_size=12, faithful=True)(torch.cat([features, torch.zeros(1, 1, 2, 12)], dim=2))
    torch.testing.assert_close(seen, tokens)


def test_speech_without_a_token_is_finite():
    tokens, used = interface(token_size=12)(torch.zeros(2, 1, 6, 12))
    assert tokens.isfinite().all() and not used.any()


def test_speech_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="token_size=10 is not the features' width 12"):
        interface(token_size=10)
    with pytest.raises(ValueError, match="more than BERT's max_positions=5"):
        interface(token_size=12, max_positions=5)


# --- media -------------------------------------------------------------------------------------------------------------


def test_frames_are_those_of_the_seconds():
    video = XLlmVideoProcessor(num_frames=4)
    assert video.frame_indices(1000, 29.97) == [0, 29, 59, 89]
    assert video.frame_indices(10, 1.0) == [0, 1, 2, 3]
    assert video.frame_indices(50, 25.0) == [6, 18, 31, 43]
    assert video.frame_indices(1, 25.0) == [0, 0, 0, 0]
    faithful = XLlmVideoProcessor(num_frames=4, fill_with_zeros=True)
    assert faithful.frame_indices(50, 25.0) == [0, 25]


def test_short_videos_are_filled_with_zeros_where_asked(tmp_path):
    video = XLlmVideoProcessor(num_frames=3, fill_with_zeros=True, size={"shortest_edge": 28}, crop_size=28)
    video.save_pretrained(tmp_path)
    again = AutoVideoProcessor.from_pretrained(tmp_path)
    frames = [np.full((count, 40, 60, 3), 200, dtype=np.uint8) for count in (1, 3)]
    pixels = again(videos=frames, return_tensors="pt", do_sample_frames=False)["pixel_values_videos"]
    assert pixels.shape == (2, 3, 3, 28, 28)
    assert not pixels[0, 1:].any() and pixels[0, 0].all() and pixels[1].all()


def test_speech_features_are_checked(tmp_path):
    processor = system("x_llm")[1]
    np.save(tmp_path / "speech.npy", np.ones((3, 512), dtype=np.float64))
    read = processor(text="<speech>", speech=tmp_path / "speech.npy", return_tensors="pt")["speech_values"]
    assert read.shape == (1, 20, 512) and read.dtype == torch.float32
    assert read[0, :3].eq(1).all() and read[0, 3:].eq(0).all()
    wrong = {
        "21 rows, but the model reads 20 spoken tokens": np.ones((21, 512)),
        'Audio itself is read by a speech encoder: compose with one as the tower of "audio"': np.ones(16000),
        "holds nan at row 1, column 2": np.where(np.arange(1536).reshape(3, 512) == 514, np.nan, 1.0),
    }
    for message, rows in wrong.items():
        with pytest.raises(MediaError, match=message):
            processor(text="<speech>", speech=rows)
    processor.speech_feature_extractor.save_pretrained(tmp_path)
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), TokenFeatureExtractor)


# --- prompts -----------------------------------------------------------------------------------------------------------


def written(messages: list[dict], prompt: bool = True) -> str:
    text = system("x_llm")[1].apply_chat_template(messages, add_generation_prompt=prompt)
    return text.replace(PIECE_END, "|")


def said(text: str, *kinds: str) -> dict:
    return {"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": text}]}


def test_prompts_are_those_of_the_data():
    assert written([said("请描述", "image")]) == "<Image><image></Image>|问：请描述\n答："
    assert written([said("请识别", "speech")]) == "<Speech><speech></Speech>|问：请识别\n答："
    # Whatever their order, images stand in front of speech; such a question is given as it is.
    both = "<Image><image></Image>|<Speech><speech></Speech>|请回答"
    assert written([said("请回答", "speech", "image")]) == both
    dialogue = [said("一", "image"), {"role": "assistant", "content": "二"}, said("三")]
    text = "<Image><image></Image>|[Round 0]\n问：一\n答：二\n[Round 1]\n问：三\n答："
    assert written(dialogue) == text
    assert written([*dialogue, {"role": "assistant", "content": "四"}], prompt=False) == f"{text}|四</s>"


# --- sound files ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_sound():
    settings = TINY["x_llm"](tiny.language_model(vocab_size=len(byte_tokenizer())), byte_tokenizer())
    settings["towers"]["audio"] = {"tower": tiny.whisper_config(), "processor": tiny.feature_extractor()}
    torch.manual_seed(0)
    model, processor = compose(**SYSTEMS["x_llm"](**settings))
    tiny.spread(model)
    return model.eval(), processor


def test_a_speech_encoder_takes_the_place_of_features(with_sound):
    model, processor = with_sound
    assert set(processor.modalities) == {"audio", "image", "video"}
    assert model.audio_aligner.cif.config.tail_threshold == 0.5
    chats = [tiny.chat("audio", "What?", seed=seed) for seed in (1, 2)]
    together = last_logits(model, tiny.inputs(processor, *chats))
    alone = torch.cat([last_logits(model, tiny.inputs(processor, chat)) for chat in chats])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert (alone[0] - alone[1]).abs().max() > 1e-5


def test_attention_of_each_part_is_set_by_name(with_sound):
    model, processor = with_sound
    inputs = tiny.inputs(processor, tiny.chat("video", "audio", "What?"))
    before = last_logits(model, inputs)
    model.set_attn_implementation({"video_aligner_config": "eager", "audio_aligner_config": "eager"})
    torch.testing.assert_close(last_logits(model, inputs), before, atol=1e-5, rtol=1e-4)
    assert model.video_aligner.qformer_layers.config._attn_implementation == "eager"
    assert model.audio_aligner.bert.config._attn_implementation == "eager"
    assert model.image_tower.config._attn_implementation == "sdpa"
