"""ChatGLM-6B, the language model of X-LLM: a GLM (arXiv 2103.10360) with rotary positions in two dimensions.

All tokens before the `bos` (its "sop", start of piece) are the context, and see each other. From there on, each token sees
those before it. Positions are pairs. A token of the context has its place and 0. A token of the answer has the place of the
[GMASK] (or [MASK]) that it fills, and its place in the answer, from 1 on. Positions and visible tokens thus follow from the
ids, which this model always needs. Transformers has no class for it: its `glm` is a later model. Weights have the names of
the published checkpoint.
"""

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXMLP, rotate_half

from ...model.media_encoding import cache_length, cache_of
from ...utils.part_model import Attention, eager_attention_forward
from ...utils.upstream import (
    CACHE_NAME,
    CACHE_NAMES,
    DummyLayer,
    can_return_tuple,
    capture_outputs,
    create_causal_mask,
    merge_with_config_defaults,
)


class ChatGLMConfig(PreTrainedConfig):
    """
    Args:
        mask_token_id, gmask_token_id: what an answer fills; the first [GMASK] of a row, or else its first [MASK].
        bos_token_id: begins the answer.
        residual_layers: N of the factor sqrt(2 N) by which each layer's normed input enters its residual sum. The
            published code never sets it, so that it is 28 whatever the number of layers.
    """

    model_type = "chatglm_6b"
    keys_to_ignore_at_inference = list(CACHE_NAMES)
    # As the published config names them.
    attribute_map = {
        "num_layers": "num_hidden_layers",
        "inner_hidden_size": "intermediate_size",
        "max_sequence_length": "max_position_embeddings",
        "layernorm_epsilon": "layer_norm_eps",
    }

    vocab_size: int = 150528
    hidden_size: int = 4096
    num_hidden_layers: int = 28
    num_attention_heads: int = 32
    intermediate_size: int = 16384
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu_pytorch_tanh"
    rope_theta: float = 10000.0
    residual_layers: int = 28
    initializer_range: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = 3
    bos_token_id: int | None = 150004
    eos_token_id: int | list[int] | None = 150005
    mask_token_id: int = 150000
    gmask_token_id: int = 150001
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class TokenIdsLayer(DynamicLayer, DummyLayer):  # ty: ignore[unsupported-base]  one of two, by version
    """The ids of cached tokens, as one more layer of any cache, so that they are reordered, repeated and cropped with it.
    A dummy layer keeps no keys, and is not moved to another device."""

    supports_early_init = False

    def append(self, ids: torch.Tensor) -> None:
        """`ids (batch, new tokens)`."""
        self.update(ids[:, None, :, None], ids[:, None, :, None])

    @property
    def ids(self) -> torch.Tensor | None:
        """`(batch, tokens)`; None if there are none yet."""
        return self.keys[:, 0, :, 0] if self.get_seq_length() else None

    @classmethod
    def of(cls, cache: Cache) -> "TokenIdsLayer":
        """The layer of a cache. A cache gets it after its layers for keys and values."""
        layer = next((layer for layer in cache.layers if isinstance(layer, cls)), None)
        if layer is None:
            cache.layers.append(layer := cls())
        return layer


def positions(ids: torch.Tensor, real: torch.Tensor, config: ChatGLMConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of tokens, and which tokens are context.

    Args:
        ids, real: `(batch, length)`; `real` is bool, False for padding, which is not counted, wherever it stands.

    Returns:
        `(2, batch, length)` int64: place in the context, place in the answer. And `(batch, length)` bool, True for
        context; a row that has no answer (no `bos`) yet is read from left to right, so that it can be gone on with.
    """
    place = (real.cumsum(-1) - 1).clamp(min=0)
    answer = ((ids == config.bos_token_id) & real).cumsum(-1) > 0
    context = ~answer & answer.any(-1, keepdim=True)
    before = (real & ~answer).sum(-1, keepdim=True)
    filled = before - 1
    for token in (config.mask_token_id, config.gmask_token_id):
        found = (ids == token) & real
        first = place.gather(-1, found.long().argmax(-1, keepdim=True))
        filled = torch.where(found.any(-1, keepdim=True), first, filled)
    first = torch.where(answer, filled.clamp(min=0), place)
    return torch.stack((first, torch.where(answer, place - before + 1, 0))), context


class ChatGLMRotaryEmbedding(nn.Module):
    """Cosines and sines of both positions, each for one half of every head. Frequencies are rounded to
    float16, as in the published code."""

    def __init__(self, config: ChatGLMConfig):
        super().__init__()
        self.config = config
        self.inv_freq = nn.Buffer(self.frequencies(), persistent=False)

    def frequencies(self) -> torch.Tensor:
        width = self.config.head_dim // 2
        steps = torch.arange(0, width, 2, dtype=torch.float32) / width
        return (1.0 / self.config.rope_theta**steps).half().float()

    @torch.no_grad()
    def forward(self, places: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """`places (2, batch, length)` -> cosines and sines `(batch, 1, length, 2, head_dim / 2)`."""
        angles = places[..., None].float() * self.inv_freq.float()
        angles = torch.cat((angles, angles), dim=-1).permute(1, 2, 0, 3).unsqueeze(1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


class ChatGLMAttention(Attention):
    is_causal = True

    def __init__(self, config: ChatGLMConfig, layer_idx: int):
        # The published code divides scores by the layer's number and multiplies them by it again, for float16.
        super().__init__(config, config.head_dim)
        self.layer_idx = layer_idx
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states, position_embeddings, attention_mask, layer_past=None, **kwargs):
        """`hidden_states (batch, length, hidden)` -> the same, and attention weights."""
        # Query, key and value of a head are adjacent.
        joined = self.query_key_value(hidden_states).unflatten(-1, (-1, 3 * self.head_dim)).transpose(1, 2)
        query, key, value = joined.chunk(3, dim=-1)
        query, key = (self._turn(states, *position_embeddings) for states in (query, key))
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        states, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        return self.dense(states.flatten(2)), weights

    @staticmethod
    def _turn(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotates each half of a head `(b, heads, n, head_dim)` by its own position."""
        halves = states.unflatten(-1, (2, -1))
        return (halves * cos + rotate_half(halves) * sin).flatten(-2)


class ChatGLMLayer(GradientCheckpointingLayer):
    def __init__(self, config: ChatGLMConfig, layer_idx: int):
        super().__init__()
        self.alpha = (2 * config.residual_layers) ** 0.5
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = ChatGLMAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = GPTNeoXMLP(config)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)
        hidden_states = normed * self.alpha + self.attention(normed, **kwargs)[0]
        normed = self.post_attention_layernorm(hidden_states)
        return normed * self.alpha + self.mlp(normed)


class ChatGLMPreTrainedModel(PreTrainedModel):
    config: ChatGLMConfig
    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ChatGLMLayer"]
    _input_embed_layer = "word_embeddings"
    _skip_keys_device_placement = [*CACHE_NAMES, "layer_past"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]
    _can_record_outputs = {"hidden_states": ChatGLMLayer, "attentions": ChatGLMAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ChatGLMRotaryEmbedding):
            init.copy_(module.inv_freq, module.frequencies())


class ChatGLMModel(ChatGLMPreTrainedModel):
    def __init__(self, config: ChatGLMConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary_embedding = ChatGLMRotaryEmbedding(config)
        self.layers = nn.ModuleList(ChatGLMLayer(config, i) for i in range(config.num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """
        Args:
            input_ids: `(batch, length)`, always needed; positions are found by them. A context is given at once, with
                the `bos` behind it: what was cached without it was read from left to right.
            attention_mask: `(batch, length with that of the cache)`; what is 0, on either side or between, is not part
                of the text, and not counted.
            inputs_embeds: `(batch, length, hidden)`, instead of the ids' own embeddings.
            **kwargs: the cache among them, under the name that this Transformers has for it.
        """
        cache = cache_of(kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in CACHE_NAMES}
        if input_ids is None:
            raise ValueError(
                "ChatGLM finds positions by `input_ids`; give them, beside `inputs_embeds` if embeddings are others."
            )
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        ids = _with_cached(input_ids, cache)
        real = torch.ones_like(ids, dtype=torch.bool)
        if attention_mask is not None and attention_mask.ndim == 2:
            real = attention_mask[:, : ids.shape[1]].to(ids.device).bool()
        places, context = positions(ids, real, self.config)
        length = input_ids.shape[1]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            **{CACHE_NAME: cache},
            # A single token sees all tokens before it in any case,
            block_sequence_ids=context.long() - 1 if length > 1 else None,
            # but not the empty places behind it in a static cache.
            allow_is_causal_skip=cache is None or cache.get_max_length(0) < 0,
        )
        states = inputs_embeds
        turns = self.rotary_embedding(places[..., -length:], states.dtype)
        for layer in self.layers:
            states = layer(states, position_embeddings=turns, attention_mask=mask, layer_past=cache, **kwargs)
        if cache is not None:
            TokenIdsLayer.of(cache).append(input_ids)
        return BaseModelOutputWithPast(last_hidden_state=self.final_layernorm(states), **{CACHE_NAME: cache})


def _with_cached(input_ids: torch.Tensor, cache: Cache | None) -> torch.Tensor:
    """The ids of the whole text `(batch, cached + new)`."""
    past = cache_length(cache)
    if not past:
        return input_ids
    if (cached := TokenIdsLayer.of(cache).ids) is None:
        raise ValueError(f"The cache holds {past} tokens, but not their ids: another model has filled it.")
    return torch.cat((cached.to(input_ids.device), input_ids), dim=-1)


class ChatGLMForCausalLM(ChatGLMPreTrainedModel, GenerationMixin):
    def __init__(self, config: ChatGLMConfig):
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = cache_of(model_kwargs)
        # With the ids in it, a static cache does not count as one that can be compiled.
        if cache is not None and cache.layers:
            TokenIdsLayer.of(cache)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        """As the model without a head; `labels` and `logits_to_keep` as in every causal language model."""
        output = self.transformer(input_ids, attention_mask, inputs_embeds, use_cache=use_cache, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: cache_of(output)},
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


AutoConfig.register(ChatGLMConfig.model_type, ChatGLMConfig, exist_ok=True)
AutoModel.register(ChatGLMConfig, ChatGLMModel, exist_ok=True)
AutoModelForCausalLM.register(ChatGLMConfig, ChatGLMForCausalLM, exist_ok=True)
