"""Configs of ImageBind's six towers (arXiv 2305.05665); the defaults are the sizes of `imagebind_huge`."""

from transformers import PreTrainedConfig


class ImageBindTowerConfig(PreTrainedConfig):
    """
    Args:
        intermediate_size: width of the feed-forward layers; four times `hidden_size` if left out.
        projection_dim: width of the embedding, the same for all towers.
        kv_bias: adds one learned key and value that every token may attend to.
        drop_path_rate: in training, how often the last layer's branches are left out for an item; earlier layers
            less, in equal steps from 0.
        head_dropout: in training, before the projection.
        logit_scale: factor on the embedding of length 1, at most 100; None leaves its length 1.
        learn_logit_scale: whether that factor is a weight, which starts at `logit_scale`, or fixed.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    projection_dim: int = 1024
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    kv_bias: bool = True
    drop_path_rate: float = 0.0
    head_dropout: float = 0.0
    logit_scale: float | None = None
    learn_logit_scale: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )
        if self.learn_logit_scale and self.logit_scale is None:
            raise ValueError("learn_logit_scale needs a logit_scale to start from.")


class ImageBindVisionConfig(ImageBindTowerConfig):
    """
    Args:
        patch_size, tubelet_size: pixels and frames of a patch; an image is repeated to `tubelet_size` frames.
        video_frames: frames of a clip.
    """

    model_type = "imagebind_vision"

    hidden_size: int = 1280
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    kv_bias: bool = False
    image_size: int = 224
    patch_size: int = 14
    tubelet_size: int = 2
    video_frames: int = 2
    num_channels: int = 3


class ImageBindTextConfig(ImageBindTowerConfig):
    """CLIP's vocabulary. Its end token has the greatest id."""

    model_type = "imagebind_text"

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    kv_bias: bool = False
    logit_scale: float | None = 1 / 0.07
    learn_logit_scale: bool = True
    vocab_size: int = 49408
    max_position_embeddings: int = 77


class ImageBindAudioConfig(ImageBindTowerConfig):
    """
    Args:
        num_mel_bins, target_length: height and width of the spectrogram of a clip.
        patch_size, patch_stride: patches overlap where the stride is smaller.
    """

    model_type = "imagebind_audio"

    drop_path_rate: float = 0.1
    logit_scale: float | None = 20.0
    num_mel_bins: int = 128
    target_length: int = 204
    patch_size: int = 16
    patch_stride: int = 10
    num_channels: int = 1


class ImageBindDepthConfig(ImageBindTowerConfig):
    model_type = "imagebind_depth"

    hidden_size: int = 384
    num_attention_heads: int = 8
    logit_scale: float | None = 5.0
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 1


class ImageBindThermalConfig(ImageBindTowerConfig):
    model_type = "imagebind_thermal"

    logit_scale: float | None = 10.0
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 1


class ImageBindImuConfig(ImageBindTowerConfig):
    """
    Args:
        num_channels: accelerometer x, y, z, gyroscope x, y, z.
        context_length, patch_size: samples of a recording, and of a patch; an incomplete last patch is not read.
        channels_first: recordings are `(channels, samples)`; passed to the feature extractor.
    """

    model_type = "imagebind_imu"

    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    drop_path_rate: float = 0.7
    head_dropout: float = 0.5
    logit_scale: float | None = 5.0
    num_channels: int = 6
    context_length: int = 2000
    patch_size: int = 8
    channels_first: bool = True


class ImageBindConfig(PreTrainedConfig):
    """All six towers; towers that are not given have their published sizes."""

    model_type = "imagebind"
    sub_configs = {
        "vision_config": ImageBindVisionConfig,
        "text_config": ImageBindTextConfig,
        "audio_config": ImageBindAudioConfig,
        "depth_config": ImageBindDepthConfig,
        "thermal_config": ImageBindThermalConfig,
        "imu_config": ImageBindImuConfig,
    }

    vision_config: dict | ImageBindVisionConfig | None = None
    text_config: dict | ImageBindTextConfig | None = None
    audio_config: dict | ImageBindAudioConfig | None = None
    depth_config: dict | ImageBindDepthConfig | None = None
    thermal_config: dict | ImageBindThermalConfig | None = None
    imu_config: dict | ImageBindImuConfig | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        for key, config_class in self.sub_configs.items():
            value = getattr(self, key)
            if not isinstance(value, config_class):
                setattr(self, key, config_class.from_dict(value or {}))
        super().__post_init__(**kwargs)


TOWERS = tuple(name.removesuffix("_config") for name in ImageBindConfig.sub_configs)
