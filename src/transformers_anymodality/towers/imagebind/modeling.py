"""ImageBind (arXiv 2305.05665): a tower per modality, all with one embedding space; `ImageBindModel` has all of them."""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from ...utils.part_model import PartModel
from ...utils.upstream import can_return_tuple, capture_outputs, create_causal_mask, merge_with_config_defaults
from .._build import build_tower, register_tower
from .configuration import (
    TOWERS,
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindDepthConfig,
    ImageBindImuConfig,
    ImageBindTextConfig,
    ImageBindThermalConfig,
    ImageBindTowerConfig,
    ImageBindVisionConfig,
)
from .layers import (
    ImageBindAttention,
    ImageBindImuEmbeddings,
    ImageBindLayer,
    ImageBindMapEmbeddings,
    ImageBindScale,
    ImageBindTextEmbeddings,
    ImageBindVisionEmbeddings,
)


class ImageBindTower(PartModel):
    """An item is one input `(items, ...)` or several clips `(items, clips, ...)`. Clips are embedded one by one, scaled,
    and averaged (the mean is not normalised)."""

    config: ImageBindTowerConfig
    embeddings_class: type[nn.Module]
    supports_gradient_checkpointing = True
    _no_split_modules = ["ImageBindLayer"]
    _can_record_outputs = {"hidden_states": ImageBindLayer, "attentions": ImageBindAttention}

    def __init__(self, config: ImageBindTowerConfig):
        super().__init__(config)
        self.embeddings = self.embeddings_class(config)
        self.pre_norm = nn.Identity()
        if isinstance(config, ImageBindVisionConfig):
            self.pre_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(ImageBindLayer(config, index) for index in range(config.num_hidden_layers))
        self.head = nn.Sequential(
            OrderedDict(
                norm=nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
                dropout=nn.Dropout(config.head_dropout),
                projection=nn.Linear(config.hidden_size, config.projection_dim, bias=False),
            )
        )
        self.scale = ImageBindScale(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ImageBindScale) and module.log_logit_scale is not None:
            init.constant_(module.log_logit_scale, math.log(module.start))

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def encode(self, values: torch.Tensor, ndim: int, **kwargs) -> BaseModelOutputWithPooling:
        """
        Args:
            values: `(items, ...)` with `ndim` axes, or `(items, clips, ...)` with one more.

        Returns:
            `last_hidden_state`: the trunk's tokens `(items, length, dim)`, or `(items, clips, length, dim)`.
            `pooler_output`: the embedding `(items, projection_dim)`.
        """
        if values.ndim not in (ndim, ndim + 1):
            raise ValueError(
                f"{type(self).__name__} takes {ndim} axes, or {ndim + 1} with clips, not an input of shape "
                f"{tuple(values.shape)}."
            )
        items, clips = values.shape[0], values.ndim > ndim
        rows = values.flatten(0, 1) if clips else values
        tokens = self.pre_norm(self.embeddings(rows))
        mask = self.attention_mask(tokens)
        for layer in self.layers:
            tokens = layer(tokens, mask, **kwargs)
        embeddings = self.scale(self.head(self.read_token(tokens, rows)))
        if clips:
            tokens, embeddings = tokens.unflatten(0, (items, -1)), embeddings.unflatten(0, (items, -1)).mean(1)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=embeddings)

    def attention_mask(self, tokens: torch.Tensor) -> torch.Tensor | None:
        return None

    def read_token(self, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The token `(rows, dim)` that represents the full input."""
        return tokens[:, 0]


@register_tower
class ImageBindVisionModel(ImageBindTower):
    config: ImageBindVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "video")
    embeddings_class = ImageBindVisionEmbeddings

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """`pixel_values`: images `(items, 3, height, width)`, clips of images `(items, clips, 3, height, width)`, or
        clips of videos `(items, clips, 3, frames, height, width)`. A single video is a clip too: `clips` is then 1."""
        axes, shape = pixel_values.ndim, tuple(pixel_values.shape)
        if axes not in (4, 5, 6) or shape[1 if axes == 4 else 2] != self.config.num_channels:
            raise ValueError(
                f"{type(self).__name__} takes (items, 3, height, width), (items, clips, 3, height, width) or (items, "
                f"clips, 3, frames, height, width), not {shape}."
            )
        return self.encode(pixel_values, 5 if axes == 6 else 4, **kwargs)


@register_tower
class ImageBindTextModel(ImageBindTower):
    config: ImageBindTextConfig
    main_input_name = "input_ids"
    input_modalities = ("text",)
    embeddings_class = ImageBindTextEmbeddings
    _input_embed_layer = "token_embedding"

    def attention_mask(self, tokens: torch.Tensor) -> torch.Tensor | None:
        return create_causal_mask(self.config, tokens, None, None)

    def read_token(self, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return tokens[torch.arange(rows.shape[0], device=rows.device), rows.argmax(-1)]

    def forward(self, input_ids: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """`input_ids (items, tokens)` int64: begin, words, end, then any padding. The output is read at the end token,
        which has the greatest id. Tokens after it change nothing, because attention is causal."""
        return self.encode(input_ids, 2, **kwargs)


@register_tower
class ImageBindAudioModel(ImageBindTower):
    config: ImageBindAudioConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)
    embeddings_class = ImageBindMapEmbeddings

    def forward(self, input_features: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """`input_features`: spectrograms `(items, 1, mel bins, frames)` or `(items, clips, 1, mel bins, frames)`."""
        return self.encode(input_features, 4, **kwargs)


class ImageBindMapTower(ImageBindTower):
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    embeddings_class = ImageBindMapEmbeddings

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """`pixel_values (items, 1, height, width)`, or `(items, clips, 1, height, width)`."""
        return self.encode(pixel_values, 4, **kwargs)


@register_tower
class ImageBindDepthModel(ImageBindMapTower):
    config: ImageBindDepthConfig


@register_tower
class ImageBindThermalModel(ImageBindMapTower):
    config: ImageBindThermalConfig


@register_tower
class ImageBindImuModel(ImageBindTower):
    config: ImageBindImuConfig
    main_input_name = "input_values"
    embeddings_class = ImageBindImuEmbeddings

    def forward(self, input_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """`input_values (items, channels, samples)`, or `(items, clips, channels, samples)`."""
        return self.encode(input_values, 3, **kwargs)


@dataclass
class ImageBindOutput(ModelOutput):
    """The embeddings `(items, projection_dim)` of each input. Embeddings of any two modalities can be compared: similar
    inputs have a large dot product."""

    vision_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    depth_embeds: torch.Tensor | None = None
    thermal_embeds: torch.Tensor | None = None
    imu_embeds: torch.Tensor | None = None


@register_tower
class ImageBindModel(PartModel):
    """All six towers, as `vision_tower`, `text_tower`, `audio_tower`, `depth_tower`, `thermal_tower`, `imu_tower`."""

    config: ImageBindConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "video", "text", "audio")
    supports_gradient_checkpointing = True

    def __init__(self, config: ImageBindConfig):
        super().__init__(config)
        for name in TOWERS:
            setattr(self, f"{name}_tower", build_tower(getattr(config, f"{name}_config")))
        self.post_init()

    def get_input_embeddings(self):
        return self.text_tower.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_tower.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        depth_values: torch.Tensor | None = None,
        thermal_values: torch.Tensor | None = None,
        imu_values: torch.Tensor | None = None,
        **kwargs,
    ) -> ImageBindOutput:
        """Any of: images or videos, text, audio, depth, thermal, IMU; each in the shape that its tower takes."""
        given = zip(
            TOWERS, (pixel_values, input_ids, input_features, depth_values, thermal_values, imu_values), strict=True
        )
        embeddings = {
            f"{name}_embeds": getattr(self, f"{name}_tower")(values, **kwargs).pooler_output
            for name, values in given
            if values is not None
        }
        if not embeddings:
            raise ValueError("There is no input to embed: pass at least one modality.")
        return ImageBindOutput(**embeddings)
