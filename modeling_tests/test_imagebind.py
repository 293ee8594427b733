"""ImageBind's and IMU2CLIP's towers: alone, in a batch, in a composite."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_tests import tiny
from transformers_anymodality import compose
from transformers_anymodality.towers.imagebind import (
    ImageBindAudioConfig,
    ImageBindAudioFeatureExtractor,
    ImageBindConfig,
    ImageBindDepthConfig,
    ImageBindDepthImageProcessor,
    ImageBindImageProcessor,
    ImageBindImuConfig,
    ImageBindModel,
    ImageBindTextConfig,
    ImageBindThermalConfig,
    ImageBindThermalImageProcessor,
    ImageBindVideoProcessor,
    ImageBindVisionConfig,
)
from transformers_anymodality.towers.imagebind.configuration import TOWERS
from transformers_anymodality.towers.imu2clip import Imu2ClipConfig, Imu2ClipPatchTransformerConfig
from transformers_anymodality.utils.upstream import set_checkpointing


SIZES = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, projection_dim=16)
CONFIGS = {
    "vision": ImageBindVisionConfig(**SIZES, image_size=28, patch_size=7),
    "text": ImageBindTextConfig(**SIZES, vocab_size=40, max_position_embeddings=12),
    "audio": ImageBindAudioConfig(**SIZES, num_mel_bins=32, target_length=60),
    "depth": ImageBindDepthConfig(**SIZES, image_size=32),
    "thermal": ImageBindThermalConfig(**SIZES, image_size=32),
    "imu": ImageBindImuConfig(**SIZES, context_length=80),
    "imu2clip": Imu2ClipConfig(hidden_size=16, conv_channels=8, context_length=350),
    "imu2clip_patches": Imu2ClipPatchTransformerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, context_length=80
    ),
    "imu2clip_mean": Imu2ClipPatchTransformerConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, class_token=False
    ),
}
# Shape of an item, and the argument of `ImageBindModel`.
ITEMS = {
    "vision": ((3, 28, 28), "pixel_values"),
    "text": ((9,), "input_ids"),
    "audio": ((1, 32, 60), "input_features"),
    "depth": ((1, 32, 32), "depth_values"),
    "thermal": ((1, 32, 32), "thermal_values"),
    "imu": ((6, 80), "imu_values"),
    "imu2clip": ((6, 350), ""),
    "imu2clip_patches": ((6, 80), ""),
    "imu2clip_mean": ((6, 80), ""),
}


def tower(name: str):
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(CONFIGS[name])).eval()
    tiny.spread(model)
    return model


def items(name: str, *leading: int) -> torch.Tensor:
    shape = (*leading, *ITEMS[name][0])
    if name != "text":
        return torch.randn(shape)
    ids = torch.randint(1, 30, shape)
    ids[..., -3], ids[..., -2:] = 39, 0
    return ids


# --- towers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_and_loaded_alone(name, tmp_path):
    model, values = tower(name), items(name, 2)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == again.config.to_dict()
    torch.testing.assert_close(again(values).pooler_output, model(values).pooler_output, atol=0, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_is_as_its_items(name):
    model, values = tower(name), items(name, 3)
    together = model(values)
    for row in range(3):
        alone = model(values[row : row + 1])
        torch.testing.assert_close(alone.pooler_output[0], together.pooler_output[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.last_hidden_state[0], together.last_hidden_state[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "imu2clip"])
def test_attention_implementations_agree(name):
    model, values = tower(name), items(name, 2)
    model.set_attn_implementation("sdpa")
    sdpa = model(values).pooler_output
    model.set_attn_implementation("eager")
    output = model(values, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(output.pooler_output, sdpa, atol=1e-5, rtol=1e-5)
    layers = model.config.num_hidden_layers
    assert (len(output.attentions), len(output.hidden_states)) == (layers, layers + 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_gets_a_gradient(name):
    values, gradients = items(name, 4), []
    for checkpointing in (False, True):
        model = tower(name)
        for module in model.modules():  # what is drawn at random is off
            module.drop_path_rate = 0.0
            module.p = 0.0
        if checkpointing and model.supports_gradient_checkpointing:
            set_checkpointing(model, True)
        if name.startswith("imu2clip"):
            model.config.dropout = 0.0
        embeddings = model.train()(values).pooler_output
        (embeddings * torch.arange(embeddings.shape[1])).sum().backward()
        gradients.append({key: weight.grad for key, weight in model.named_parameters()})
    for key, gradient in gradients[0].items():
        # Softmax does not see what is added to all keys alike.
        assert gradient is not None and (gradient.any() or key.endswith("k_proj.bias")), key
        torch.testing.assert_close(gradients[1][key], gradient, atol=1e-4, rtol=1e-4)


def test_layers_are_left_out_in_training_only():
    model, values = tower("imu"), items("imu", 4)
    model.head.dropout.p = 0.0
    assert [layer.drop_path_rate for layer in model.layers] == [0.0, 0.7]
    before = model(values).last_hidden_state
    during = model.train()(values).last_hidden_state
    assert not torch.allclose(before, during)
    assert torch.equal(model.eval()(values).last_hidden_state, before)
    model.train().layers[1].drop_path_rate = 0.5
    with torch.no_grad():
        branch = model.layers[1].drop_path(torch.ones(4000, 1, 1))
    assert branch.unique().tolist() == [0.0, 2.0] and abs(branch.mean().item() - 1) < 0.1


@pytest.mark.parametrize("name", ["vision", "audio", "depth", "thermal", "imu"])
def test_clips_are_averaged_after_they_were_scaled(name):
    model, values = tower(name), items(name, 2, 3)
    output, one_by_one = model(values), model(values.flatten(0, 1))
    mean = one_by_one.pooler_output.unflatten(0, (2, 3)).mean(1)
    torch.testing.assert_close(output.pooler_output, mean, atol=1e-5, rtol=1e-5)
    assert output.last_hidden_state.shape == (2, 3, *one_by_one.last_hidden_state.shape[1:])
    scale = model.config.logit_scale or 1.0
    torch.testing.assert_close(one_by_one.pooler_output.norm(dim=-1), torch.full((6,), scale))
    assert (output.pooler_output.norm(dim=-1) < scale).all()


def test_a_still_is_a_clip_of_itself_twice():
    model, still = tower("vision"), items("vision", 2)
    clip = still[:, None, :, None].expand(-1, -1, -1, 2, -1, -1)
    torch.testing.assert_close(model(clip).pooler_output, model(still).pooler_output, atol=1e-5, rtol=1e-5)


def test_images_of_another_size_are_read():
    assert tower("vision")(torch.randn(1, 3, 42, 42)).last_hidden_state.shape == (1, 37, 24)
    with pytest.raises(ValueError, match=r"grid of \(1, 4, 6\)"):
        tower("vision")(torch.randn(1, 3, 28, 42))
    with pytest.raises(ValueError, match="grid of"):
        tower("audio")(torch.randn(1, 1, 32, 70))


@pytest.mark.parametrize(
    "name, shape", [("vision", (1, 2, 3, 28, 28)), ("vision", (3, 28, 28)), ("audio", (1, 32, 60)), ("imu", (6, 80))]
)
def test_other_shapes_are_refused(name, shape):
    shape = (1, 3, 2, 28, 28) if shape == (1, 2, 3, 28, 28) else shape
    with pytest.raises(ValueError, match="takes"):
        tower(name)(torch.randn(shape))


def test_padding_after_the_end_of_text_changes_nothing():
    model, ids = tower("text"), items("text", 2)
    torch.testing.assert_close(model(ids[:, :7]).pooler_output, model(ids).pooler_output, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="13 tokens"):
        model(torch.ones(1, 13, dtype=torch.int64))


def test_logit_scale_is_cut_at_100_and_may_be_left_out():
    config = copy.deepcopy(CONFIGS["audio"])
    for scale, length in ((None, 1.0), (7.0, 7.0), (1000.0, 100.0)):
        config.logit_scale = scale
        norm = AutoModel.from_config(config).eval()(items("audio", 1)).pooler_output.norm()
        torch.testing.assert_close(norm, torch.tensor(length))
    text = tower("text")
    with torch.no_grad():
        text.scale.log_logit_scale.fill_(9.0)
    torch.testing.assert_close(text(items("text", 1)).pooler_output.norm(), torch.tensor(100.0))


def test_all_towers_in_one_model(tmp_path):
    config = ImageBindConfig(**{f"{name}_config": copy.deepcopy(CONFIGS[name]) for name in TOWERS})
    torch.manual_seed(0)
    model = ImageBindModel(config).eval()
    media = {ITEMS[name][1]: items(name, 2) for name in TOWERS}
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    output = model(**media)
    assert list(output) == [f"{name}_embeds" for name in TOWERS]
    for name, value in again(**media).items():
        torch.testing.assert_close(value, output[name], atol=1e-6, rtol=1e-6)
    assert list(model(imu_values=media["imu_values"])) == ["imu_embeds"]
    with pytest.raises(ValueError, match="no input to embed"):
        model()


def test_published_sizes():
    with torch.device("meta"):
        counts = {
            name: sum(
                p.numel() for p in AutoModel.from_config(ImageBindConfig.sub_configs[f"{name}_config"]()).parameters()
            )
            for name in TOWERS
        }
    assert {name: round(count / 1e6) for name, count in counts.items()} == {
        "vision": 633,
        "text": 354,
        "audio": 86,
        "depth": 22,
        "thermal": 86,
        "imu": 20,
    }
    with torch.device("meta"):
        imu2clip = AutoModel.from_config(Imu2ClipConfig())
    assert round(sum(p.numel() for p in imu2clip.parameters()) / 1e4) == 85


def test_imu2clip_says_which_lengths_it_reads():
    with pytest.raises(ValueError, match="leaves 8 time steps, but conv_channels is 32"):
        Imu2ClipConfig(context_length=350)
    with pytest.raises(ValueError, match="Recordings of 340 samples"):
        tower("imu2clip")(torch.randn(1, 6, 340))
    assert Imu2ClipConfig(context_length=Imu2ClipConfig.shortest(32)).context_length == 978


# --- in a composite --------------------------------------------------------------------------------------------------


EXTRACTOR = dict(num_mel_bins=32, target_length=60, clip_seconds=0.6)
ROWS_OF_A_MODEL = {
    "image": {"tower": CONFIGS["vision"], "processor": ImageBindImageProcessor(28)},
    "video": {"tower": CONFIGS["vision"], "processor": ImageBindVideoProcessor(28, num_clips=2, clip_seconds=0.1)},
    "audio": {"tower": CONFIGS["audio"], "processor": ImageBindAudioFeatureExtractor(**EXTRACTOR)},
    "depth": {"tower": CONFIGS["depth"], "processor": ImageBindDepthImageProcessor(32)},
    "thermal": {"tower": CONFIGS["thermal"], "processor": ImageBindThermalImageProcessor(32)},
    "imu": {"tower": CONFIGS["imu"]},
}


@pytest.fixture(scope="module")
def composite():
    settings = {
        name: {**copy.deepcopy(row), "aligner": "linear", "select_feature": "pooled"}
        for name, row in ROWS_OF_A_MODEL.items()
    }
    settings["video"]["tower"] = "image"
    model, processor = compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())
    tiny.spread(model)
    return model, processor


@pytest.mark.parametrize("name", ROWS_OF_A_MODEL)
def test_a_medium_is_one_token(composite, name, tmp_path):
    model, processor = composite
    rows = tiny.inputs(processor, tiny.chat("this", name), tiny.chat(name, name, "that", seed=3))
    placeholder = processor.tokenizer.convert_tokens_to_ids(f"<{name}>")
    assert (rows["input_ids"] == placeholder).sum(-1).tolist() == [1, 2]
    media = {key: value for key, value in rows.items() if key in model.config.modalities[name].inputs}
    output = model.get_modality_features(name, **media)
    assert output.last_hidden_state.shape == (3, 1, 1, 16)
    for row in range(3):
        alone = model.get_modality_features(name, **{key: value[row : row + 1] for key, value in media.items()})
        torch.testing.assert_close(alone.pooler_output[0], output.pooler_output[row], atol=1e-5, rtol=1e-4)
    assert model(**rows).logits.isfinite().all()


def test_a_composite_is_saved_with_its_processors(composite, tmp_path):
    model, processor = composite
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    chat = tiny.chat(*ROWS_OF_A_MODEL)
    before, after = (tiny.inputs(one, chat) for one in (processor, again))
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert type(again.video_processor) is ImageBindVideoProcessor
    reloaded = AutoModel.from_pretrained(tmp_path)
    assert {type(reloaded.tower(name)) for name in ROWS_OF_A_MODEL} == {
        type(model.tower(name)) for name in ROWS_OF_A_MODEL
    }


def test_patches_of_clips_come_without_class_tokens():
    row = {"tower": copy.deepcopy(CONFIGS["vision"]), "aligner": "linear", "select_feature": "patches"}
    processor = ImageBindVideoProcessor(28, num_clips=2, clip_seconds=0.1)
    model, processor = compose(
        tiny.language_model(), {"video": {**row, "processor": processor}}, tokenizer=tiny.tokenizer()
    )
    rows = tiny.inputs(processor, tiny.chat("video"))
    features = model.get_modality_features("video", rows["pixel_values_videos"]).last_hidden_state
    whole = model.tower("video")(rows["pixel_values_videos"]).last_hidden_state
    assert whole.shape == (1, 6, 17, 24)
    torch.testing.assert_close(features, whole[:, :, 1:].flatten(1, 2)[:, None])


@pytest.mark.parametrize("name", ["imu2clip", "imu2clip_patches"])
def test_imu2clip_as_a_tower(name):
    settings = {"imu": {"tower": copy.deepcopy(CONFIGS[name]), "aligner": "linear", "select_feature": "pooled"}}
    model, processor = compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())
    assert processor.imu_feature_extractor.channels_first
    assert processor.imu_feature_extractor.num_samples == CONFIGS[name].context_length
    rows = tiny.inputs(processor, tiny.chat("imu"), tiny.chat("imu", "imu", seed=2))
    assert rows["imu_values"].shape == (3, 6, CONFIGS[name].context_length)
    assert model(**rows).logits.isfinite().all()
