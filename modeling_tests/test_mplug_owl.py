"""mPLUG-Owl beyond its recordings: dialogues, several media in one prompt, frames, and BLOOM's embedding norm."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from modeling_tests import tiny
from transformers_anymodality import AnyModalityDataCollator, compose
from transformers_anymodality.systems.mplug_owl import RELEASES, SYSTEM, mplug_owl
from transformers_anymodality.systems.mplug_owl.aligner import VisualAbstractorAligner, VisualAbstractorAlignerConfig
from transformers_anymodality.systems.mplug_owl.bloom import MplugOwlBloomConfig
from transformers_anymodality.systems.mplug_owl.tower import MplugOwlVisionConfig, MplugOwlVisionModel


TOKENIZER = Path(__file__).parent / "parity" / "mplug_owl_processing" / "tokenizer.json"
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER |= {"image_size": 28, "patch_size": 14}
ALIGNER = {"num_tokens": 4, "depth": 2, "num_heads": 2, "intermediate_size": 12}


def tokenizer() -> PreTrainedTokenizerFast:
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), **special)


def language_config(release: str):
    if release == "bloomz":
        return MplugOwlBloomConfig(vocab_size=len(tokenizer()), hidden_size=32, n_layer=2, n_head=2)
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaConfig(vocab_size=len(tokenizer()), **sizes)


def owl(release: str = "llama", **kwargs):
    settings = {"towers": {"image": MplugOwlVisionConfig(**TOWER, temporal=release == "video")}, "aligners": ALIGNER}
    torch.manual_seed(0)
    model, processor = compose(
        **mplug_owl(language_config(release), tokenizer(), release=release, **{**settings, **kwargs})
    )
    tiny.spread(model, 0.2)
    return model, processor


def image(seed: int) -> dict:
    return {"type": "image", "image": tiny.medium("image", seed)}


def video(seed: int) -> dict:
    return {"type": "video", "video": tiny.medium("video", seed)}


def say(text: str) -> dict:
    return {"type": "text", "text": text}


DIALOGUE = [
    {"role": "user", "content": [image(0), say("What is this?")]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": [video(1), say("And "), say("that?")]},
    {"role": "assistant", "content": "Two dogs."},
]


# --- dialogues -----------------------------------------------------------------------------------------------------


def test_a_dialogue_is_written_as_in_training():
    _, processor = owl()
    text = processor.apply_chat_template(DIALOGUE).replace("\ufdd2", "")
    assert text == (
        f"<s>{SYSTEM}\nHuman: <image>\nHuman: What is this?\nAI: A cat.</s>"
        "\nHuman: <|video|>\nHuman: And that?\nAI: Two dogs.</s>"
    )
    prompt = processor.apply_chat_template(DIALOGUE[:3], add_generation_prompt=True)
    whole = processor.apply_chat_template(DIALOGUE)
    assert whole.startswith(prompt), "what is learned is not what is asked"
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert processor.apply_chat_template(system).replace("\ufdd2", "") == "<s>Be brief.\nHuman: Hello"


def test_pieces_and_labels_are_those_of_training():
    _, processor = owl()
    backend = processor.tokenizer
    pieces = [
        *(("<s>", 0), (SYSTEM, 0), ("\nHuman: ", 0), ("<image>", 0), ("\nHuman: ", 0), ("What is this?\n", 0)),
        *(("AI: ", 0), ("A cat.", 1), ("</s>", 1)),
        *(("\nHuman: ", 0), ("<|video|>", 0), ("\nHuman: ", 0), ("And that?\n", 0), ("AI: ", 0), ("Two dogs.", 1)),
        ("</s>", 1),
    ]
    ids, learned = [], []
    for piece, said in pieces:
        found = backend(piece, add_special_tokens=False)["input_ids"]
        ids += found
        learned += [bool(said)] * len(found)
    assert processor.encode_chat(DIALOGUE) == (ids, learned)


def test_faithful_cuts_questions_at_media_only():
    _, processor = owl(faithful=True)
    assert processor.encode_chat(DIALOGUE) == owl()[1].encode_chat(DIALOGUE)
    prompt = processor.apply_chat_template(DIALOGUE[:3], add_generation_prompt=True)
    assert prompt == (
        f"<s>{SYSTEM}\nHuman: <image>\nHuman: What is this?\nAI: A cat.\nHuman: <|video|>\nHuman: And that?\nAI: "
    )


# --- media ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_each_medium_gets_its_own_tokens(release, tmp_path):
    model, processor = owl(release)
    chats = [
        [{"role": "user", "content": [image(0), image(1), video(2), say("What?"), video(3)]}],
        [{"role": "user", "content": [say("Is "), image(4), say("that a cat?")]}],
    ]
    inputs = tiny.inputs(processor, *chats)
    assert inputs["pixel_values"].shape == (3, 3, 28, 28) and inputs["pixel_values_videos"].shape == (2, 4, 3, 28, 28)
    output = model(**inputs)
    features = output.modality_hidden_states
    assert features["image"].shape[:2] == (3, 4)
    assert features["video"].shape[:2] == (2, 4 if release == "video" else 16)
    assert len({row.sum().item() for tokens in features.values() for row in tokens}) == 5
    for i in range(3):
        alone = model.get_modality_features("image", inputs["pixel_values"][i : i + 1]).pooler_output
        torch.testing.assert_close(alone[0], features["image"][i], atol=1e-4, rtol=1e-4)
    settings = {"do_sample": False, "max_new_tokens": 4}
    together = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
    for chat, row in zip(chats, together, strict=True):
        one = tiny.inputs(processor, chat)
        assert torch.equal(model.generate(**one, **settings)[0, one["input_ids"].shape[1] :], row)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reloaded = AutoModelForCausalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(**tiny.inputs(reloaded, *chats)).logits, output.logits)
    headless = AutoModel.from_pretrained(tmp_path)
    hidden = headless(**inputs).last_hidden_state
    torch.testing.assert_close(again.get_output_embeddings()(hidden), output.logits)


@pytest.mark.parametrize("release", RELEASES)
def test_trains_on_images_and_videos(release):
    model, processor = owl(release)
    batch = AnyModalityDataCollator(processor)([{"messages": DIALOGUE}, {"messages": DIALOGUE[:2]}])
    model.train()
    loss = model(**batch).loss
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_generation_is_set_as_released():
    model, processor = owl()
    config = model.generation_config
    assert (config.do_sample, config.top_k, config.max_new_tokens) == (True, 3, 512)
    assert config.eos_token_id == processor.tokenizer.eos_token_id


# --- tower and aligner ---------------------------------------------------------------------------------------------


def tower(**kwargs) -> MplugOwlVisionModel:
    torch.manual_seed(0)
    model = MplugOwlVisionModel(MplugOwlVisionConfig(**TOWER, **kwargs)).eval()
    tiny.spread(model)
    return model


def test_frames_are_mixed_by_the_temporal_modules_only():
    pixels = torch.randn(2, 3, 3, 28, 28)
    apart = tower()(pixels.flatten(0, 1)).last_hidden_state.unflatten(0, (2, 3)).flatten(1, 2)
    torch.testing.assert_close(tower()(pixels).last_hidden_state, apart)
    mixed = tower(temporal=True)
    assert torch.equal(mixed(pixels[:, :1]).last_hidden_state, mixed(pixels[:, 0]).last_hidden_state)
    last = pixels.clone()
    last[:, 2] = 0
    before, after = (mixed(x).last_hidden_state.unflatten(1, (3, -1)) for x in (pixels, last))
    assert not torch.allclose(before[:, 1], after[:, 1], atol=1e-3)  # the frame beside sees it


def test_class_token_is_doubled_unless_told():
    pixels = torch.randn(1, 3, 3, 28, 28)
    for doubles in (True, False):
        model = tower(temporal=True, doubles_class_token=doubles)
        for layer in model.layers:
            torch.nn.init.zeros_(layer.temporal.up_proj.weight)
            torch.nn.init.zeros_(layer.temporal.up_proj.bias)
            torch.nn.init.zeros_(layer.self_attn.out_proj.weight)
            torch.nn.init.zeros_(layer.mlp.fc2.weight)
            torch.nn.init.zeros_(layer.self_attn.out_proj.bias)
            torch.nn.init.zeros_(layer.mlp.fc2.bias)
        first, *_, last = model(pixels, output_hidden_states=True).hidden_states
        first, last = (states.unflatten(1, (3, -1)) for states in (first, last))
        torch.testing.assert_close(last[:, :, 0], first[:, :, 0] * (4 if doubles else 1))
        torch.testing.assert_close(last[:, :, 1:], first[:, :, 1:])


@pytest.mark.parametrize("temporal", [False, True])
def test_frames_in_one_sequence_are_told_apart(temporal):
    config = VisualAbstractorAlignerConfig(
        feature_size=12, hidden_size=20, feature_length=5, temporal=temporal, **ALIGNER
    )
    aligner = VisualAbstractorAligner(config).eval()
    tiny.spread(aligner)
    features = torch.randn(2, 3, 5, 12)
    tokens = aligner(features)
    assert tokens.shape[1] == config.count_tokens(1, 15) == config.count_tokens(3, 5) == (4 if temporal else 12)
    assert torch.equal(aligner(features.view(2, 1, 15, 12)), tokens)
    assert torch.equal(tokens[:, 3], aligner.end_token.expand(2, -1))
    if temporal:
        shuffled = aligner(features.flip(1))
        torch.testing.assert_close(shuffled, tokens, atol=1e-5, rtol=1e-5)  # frames have no positions here
    else:
        torch.testing.assert_close(tokens[:, 4:8], aligner(features[:, 1:2]))


def test_published_sizes():
    with torch.device("meta"):
        aligner = VisualAbstractorAligner(VisualAbstractorAlignerConfig(feature_size=1024, hidden_size=4096))
        vision = MplugOwlVisionModel(MplugOwlVisionConfig())
    count = sum(p.numel() for p in aligner.parameters())
    assert aligner.config.num_tokens == 65 and abs(count - 81.47e6) < 1e4
    assert vision.embeddings.num_positions == 257 and len(vision.layers) == 24
    with pytest.raises(ValueError, match="llama, bloomz, video"):
        mplug_owl(release="v2")


# --- BLOOM ---------------------------------------------------------------------------------------------------------


def test_bloom_norms_text_and_no_media():
    sizes = {"vocab_size": 50, "hidden_size": 16, "n_layer": 2, "n_head": 2}
    ours = AutoModelForCausalLM.from_config(MplugOwlBloomConfig(**sizes)).eval()
    tiny.spread(ours)
    stock = BloomForCausalLM(BloomConfig(**sizes)).eval()
    names = {"word_embeddings.norm": "word_embeddings_layernorm"}
    stock.load_state_dict({k.replace(*next(iter(names.items()))): v for k, v in ours.state_dict().items()})
    ids = torch.randint(0, 50, (2, 7))
    assert torch.equal(ours(ids).logits, stock(ids).logits)
    embeds = ours.get_input_embeddings()(ids)
    assert torch.equal(ours(inputs_embeds=embeds).logits, stock(ids).logits)
    seen = []
    ours.transformer.h[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    media = torch.randn(2, 7, 16)
    ours(inputs_embeds=media)
    assert torch.equal(seen[0], media)


def test_bloom_grows_and_is_saved(tmp_path):
    config = MplugOwlBloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    tiny.spread(model)
    ids = torch.randint(0, 50, (2, 7))
    before = model(ids).logits
    model.resize_token_embeddings(53)
    assert torch.equal(model(ids).logits[..., :50], before)
    model.save_pretrained(tmp_path)
    again, headless = AutoModelForCausalLM.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert torch.equal(headless(ids).last_hidden_state, model.transformer(ids).last_hidden_state)


def test_short_videos_repeat_frames():
    _, processor = owl()
    assert processor.video_processor.frame_indices(1, 25.0) == [0, 0, 0, 0]
    assert processor.video_processor.frame_indices(2, 25.0) == [0, 0, 0, 1]
    pixels = processor(videos=[np.zeros((1, 9, 9, 3), np.uint8)], return_tensors="pt")["pixel_values_videos"]
    assert pixels.shape == (1, 4, 3, 28, 28)
