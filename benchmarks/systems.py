"""The five published systems, against the originals' own steps in plain PyTorch (`_originals.py`) with the same weights.

python -m benchmarks.systems [--quick]
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from transformers import Blip2VisionConfig, CLIPVisionConfig, VideoMAEConfig, WhisperConfig

from transformers_anymodality import AnyModalityForCausalLM, compose
from transformers_anymodality.systems import anymal, macaw_llm, mplug_owl, pandagpt, x_llm
from transformers_anymodality.systems.mplug_owl.tower import MplugOwlVisionConfig
from transformers_anymodality.towers.imagebind import ImageBindAudioConfig, ImageBindVisionConfig

from . import _models as models
from . import _originals as originals
from ._ratio import DEVICE, DTYPE, Effort, Result, compare, main


TEXT = 64
# Of a tower: width, layers, heads.
TowerSizes = tuple[int, int, int]


@torch.inference_mode()
def measure(effort: Effort) -> Iterator[Result]:
    for name, original, parts in (
        ("Macaw-LLM", originals.MacawLlm, _macaw_llm),
        ("AnyMAL", originals.AnyMal, _anymal),
        ("PandaGPT", originals.PandaGpt, _pandagpt),
        ("mPLUG-Owl", originals.MplugOwl, _mplug_owl),
        ("X-LLM", originals.XLlm, _x_llm),
    ):
        model, new = build(parts, effort), 2 if effort.tiny else 32
        rival = original(model)
        ids, media = prompt(model, rival.names)
        ours = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **media}
        _agree(model, rival, ours, ids, media)
        found = compare(lambda: model(**ours), lambda: rival.forward(ids, media), effort)  # noqa: B023
        yield Result(9, f"{name}, forward", "the original's steps", found, 0.75)
        greedy: dict[str, Any] = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
        hidden = model.config.placeholder_ids
        found = compare(
            lambda: model.generate(**ours, **greedy),  # noqa: B023
            lambda: rival.generate(ids, media, suppress_tokens=hidden, **greedy),  # noqa: B023
            effort,
        )
        yield Result(9, f"{name}, {new} words", "the original's steps", found, 0.75)
        if isinstance(rival, originals.MacawLlm):
            yield aligning(model, rival, media, effort)


def aligning(
    model: AnyModalityForCausalLM, rival: originals.MacawLlm, media: dict[str, torch.Tensor], effort: Effort
) -> Result:
    """From a video's features to tokens, without the tower, which is the same on both sides."""
    main = model.config.modalities["video"].main_input
    features, _ = model.encode("video", {main: media[main]})
    found = compare(lambda: model.align("video", features), lambda: rival.aligned("video", features), effort)
    return Result(9, "Macaw-LLM, aligning a video", "the original's loop over its table", found, 0.2)


def _agree(
    model: AnyModalityForCausalLM,
    rival: originals.Original,
    ours: dict[str, torch.Tensor],
    ids: torch.Tensor,
    media: dict[str, torch.Tensor],
) -> None:
    """Compares the tokens of media, and the language model's output for the text after them."""
    output, rows = model(**ours), model.config.modalities
    for name in rival.names:
        tokens, theirs = output.modality_hidden_states[name], rival.tokens(name, media[rows[name].main_input])
        torch.testing.assert_close(tokens, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=1e-3)
    text = slice(1 - TEXT, None)
    torch.testing.assert_close(output.logits[:, text], rival.forward(ids, media)[:, text], atol=1e-3, rtol=1e-3)


def build(parts: Callable[..., dict[str, Any]], effort: Effort) -> AnyModalityForCausalLM:
    """A system of medium size, with random weights."""
    torch.manual_seed(0)
    sizes = models.sized(models.Sizes(512, 8, 8000 if effort.largest else 2000, 384, 8), effort)
    sizes = replace(sizes, width=256) if effort.tiny else sizes
    tower = (sizes.tower_width, sizes.tower_layers, sizes.tower_width // 64)
    model, _ = compose(**parts(tower, models.language(sizes), models.tokenizer(sizes.words)))
    return model.to(DEVICE, DTYPE).eval()


def _tower(width: int, layers: int, heads: int) -> dict[str, int]:
    sizes = dict(hidden_size=width, intermediate_size=4 * width)
    return sizes | dict(num_hidden_layers=layers, num_attention_heads=heads, patch_size=16)


def _macaw_llm(tower: TowerSizes, *language: Any) -> dict[str, Any]:
    """The current graph, all three modalities."""
    width, layers, heads = tower
    whisper = dict(d_model=width, encoder_layers=layers, encoder_attention_heads=heads, encoder_ffn_dim=4 * width)
    towers = {
        "image": CLIPVisionConfig(**_tower(*tower)),
        "video": CLIPVisionConfig(**_tower(*tower)),
        "audio": WhisperConfig(**whisper, decoder_attention_heads=heads),
    }
    return macaw_llm(*language, graph="current", towers=towers, aligners={"image": {}, "video": {}})


def _anymal(tower: TowerSizes, *language: Any) -> dict[str, Any]:
    towers = {
        "image": CLIPVisionConfig(**_tower(*tower)),
        "video": VideoMAEConfig(**_tower(*tower), image_size=112, num_frames=8),
    }
    return anymal(*language, modalities=towers, towers=towers)


def _pandagpt(tower: TowerSizes, *language: Any) -> dict[str, Any]:
    towers = {
        "image": ImageBindVisionConfig(**_tower(*tower)),
        "audio": ImageBindAudioConfig(**_tower(*tower), logit_scale=None),
    }
    return pandagpt(*language, modalities=towers, towers=towers)


def _mplug_owl(tower: TowerSizes, *language: Any) -> dict[str, Any]:
    aligners = {"num_heads": tower[2], "intermediate_size": 11 * tower[0] // 4}  # as wide as in the release
    return mplug_owl(*language, towers={"image": MplugOwlVisionConfig(**_tower(*tower))}, aligners=aligners)


def _x_llm(tower: TowerSizes, *language: Any) -> dict[str, Any]:
    width, layers, heads = tower
    queries = dict(qformer_hidden_size=width, depth=max(2, layers), num_heads=heads, intermediate_size=4 * width)
    speech = dict(bert_hidden_size=width, depth=1, num_heads=heads, intermediate_size=width)
    towers = {"image": Blip2VisionConfig(**_tower(*tower))}
    return x_llm(*language, towers=towers, aligners={"image": queries, "speech": speech})


def prompt(model: AnyModalityForCausalLM, names: tuple[str, ...]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A word, an item of each modality, and other words."""
    generator, media, front = torch.Generator().manual_seed(1), {}, []
    for name in names:
        row, config = model.config.modalities[name], model.config.aligner_config(name)
        media[row.main_input] = torch.randn(1, *row.input_shape, generator=generator).to(DEVICE, DTYPE)
        front += [row.token_id] * config.count_tokens(row.num_frames, row.feature_length)
    text = torch.randint(10, 900, (1, TEXT), generator=generator)
    return torch.cat([text[:, :1], torch.tensor([front]), text[:, 1:]], dim=1).to(DEVICE), media


if __name__ == "__main__":
    main(__doc__ or "", measure)
