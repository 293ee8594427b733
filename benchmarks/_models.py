"""Shared by the benchmarks: composites with random weights, Transformers' LLaVA class with the same weights, batches."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from transformers_anymodality import AnyModalityForCausalLM, AnyModalityProcessor, compose

from ._ratio import DEVICE, DTYPE, Effort


# Strings, and parts joined; the assistant's text is in generation tags.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : {% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content }}{% endgeneration %}{% else %}{{ message.content }}{% endif %} </s> {% endfor %}"
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a tower and a language model."""

    width: int = 64
    layers: int = 2
    words: int = 1000
    tower_width: int = 64
    tower_layers: int = 3
    side: int = 32
    patch: int = 8

    @property
    def image_tokens(self) -> int:
        return (self.side // self.patch) ** 2


TINY = Sizes()
MIDDLE = Sizes(width=512, layers=8, words=32000, tower_width=384, tower_layers=8, side=224, patch=14)
# About 1.4 billion parameters, for a GPU.
LARGE = Sizes(width=2048, layers=24, words=32000, tower_width=1024, tower_layers=24, side=336, patch=14)


def sized(sizes: Sizes, effort: Effort) -> Sizes:
    """These sizes; with a quarter of the layers for a first impression."""
    if effort.tiny:
        return TINY
    layers = (sizes.layers, sizes.tower_layers) if effort.largest else (sizes.layers // 4, sizes.tower_layers // 4)
    return replace(sizes, layers=max(2, layers[0]), tower_layers=max(2, layers[1]))


def tokenizer(words: int, chat_template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    names = ["<unk>", "<s>", "</s>", "<pad>", "user", "assistant", ":"]
    table = {word: i for i, word in enumerate([*names, *(f"word{i}" for i in range(len(names), words - 8))])}
    backend = Tokenizer(WordLevel(table, "<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    special = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=chat_template, **special)


def vision(sizes: Sizes) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=sizes.tower_width,
        intermediate_size=4 * sizes.tower_width,
        num_hidden_layers=sizes.tower_layers,
        num_attention_heads=max(1, sizes.tower_width // 64),
        image_size=sizes.side,
        patch_size=sizes.patch,
    )


def language(sizes: Sizes) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=sizes.words,
        hidden_size=sizes.width,
        intermediate_size=8 * sizes.width // 3 // 32 * 32,
        num_hidden_layers=sizes.layers,
        num_attention_heads=max(1, sizes.width // 64),
        max_position_embeddings=1 << 18,
        tie_word_embeddings=False,
    )


def image_processor(sizes: Sizes) -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": sizes.side}, crop_size={"height": sizes.side, "width": sizes.side}
    )


def image(sizes: Sizes) -> dict[str, Any]:
    """The settings of LLaVA's image modality."""
    reading = {"select_layer": -2, "select_feature": "patches"}
    return {"tower": vision(sizes), "processor": image_processor(sizes), "aligner": "mlp", **reading}


def composite(sizes: Sizes, **rows: Any) -> tuple[AnyModalityForCausalLM, AnyModalityProcessor]:
    """A composite in eval mode; a LLaVA unless `rows` give other modalities."""
    torch.manual_seed(0)
    model, processor = compose(language(sizes), rows or {"image": image(sizes)}, tokenizer=tokenizer(sizes.words))
    model.generation_config.eos_token_id = model.language_model.generation_config.eos_token_id = None
    return model.to(DEVICE, DTYPE).eval(), processor


def llava(model: AnyModalityForCausalLM, sizes: Sizes) -> LlavaForConditionalGeneration:
    """Transformers' own class, with the weights of a composite that has only images."""
    config = LlavaConfig(
        vision_config=vision(sizes),
        text_config=model.config.text_config,
        image_token_index=model.config.image_token_id,
        image_seq_length=sizes.image_tokens,
    )
    theirs, own = LlavaForConditionalGeneration(config), model.state_dict()
    renamed = {
        **{f"model.vision_tower.{k.removeprefix('image_tower.')}": v for k, v in own.items() if "_tower." in k},
        **{f"model.multi_modal_projector.{k.partition('.')[2]}": v for k, v in own.items() if "_aligner." in k},
        **{k.replace("language_model.model.", "model.language_model."): v for k, v in own.items() if ".model." in k},
        "lm_head.weight": own["language_model.lm_head.weight"],
    }
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    # LLaVA keeps modules that it does not read: the tower's last layer and norm.
    last = f".layers.{sizes.tower_layers - 1}."
    if unexpected or any(last not in key and "post_layernorm" not in key for key in missing):
        raise ValueError(f"LLaVA's weights have other names: {missing}, {unexpected}.")
    theirs.generation_config.eos_token_id = None
    return theirs.to(DEVICE, DTYPE).eval()


def batch(
    model: AnyModalityForCausalLM, sizes: Sizes, rows: int, text: int = 64, with_image: bool = True
) -> dict[str, torch.Tensor]:
    """Rows of an image and `text` words, on the device."""
    generator = torch.Generator().manual_seed(1)
    tokens = sizes.image_tokens if with_image else 0
    ids = torch.randint(10, sizes.words - 10, (rows, 1 + tokens + text), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if with_image:
        ids[:, 1 : 1 + tokens] = model.config.image_token_id
        pixels = torch.randn(rows, 3, sizes.side, sizes.side, generator=generator)
        inputs["pixel_values"] = pixels.to(DTYPE)
    return {name: value.to(DEVICE) for name, value in inputs.items()}


def labels_for(inputs: dict[str, torch.Tensor], answer: int) -> torch.Tensor:
    """The last `answer` words of each row are supervised."""
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -answer:] = inputs["input_ids"][:, -answer:]
    return labels


def embeddings_by_hand(model: AnyModalityForCausalLM, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Tower, aligner and embeddings, called directly without a composite."""
    ids = inputs["input_ids"]
    embeds = model.language_model.get_input_embeddings()(ids)
    tower = model.image_tower(pixel_values=inputs["pixel_values"], output_hidden_states=True)
    features = tower.hidden_states[-1][:, 1:]
    aligner = model.image_aligner
    tokens = aligner.linear_2(aligner.act(aligner.linear_1(features)))
    return embeds.masked_scatter((ids == model.config.image_token_id)[..., None], tokens.flatten(0, 1))
