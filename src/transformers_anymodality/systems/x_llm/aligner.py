"""X-LLM's speech interface (arXiv 2305.04160, section 3): C-Former and S-Adapter.

The C-Former is continuous integrate-and-fire and a BERT over the tokens that fire. The S-Adapter is a projection.
"""

import torch
from torch import nn
from transformers import BertConfig, BertModel

from ...aligners import Aligner, AlignerConfig, register_aligner
from ...utils.part_model import same_attention
from ...utils.upstream import build
from .cif import CifConfig, CifModel


class SpeechInterfaceAlignerConfig(AlignerConfig):
    """
    Args:
        num_tokens: places for spoken tokens. Unused places are masked; tokens beyond them are cut off, as published.
        cif: settings of the `CifConfig` that turns frames into one feature per spoken token (`{}` for the defaults). None:
            the tower gives such features already, and rows of zeros are padding.
        token_size: width of the features per spoken token.
        bert: whether a BERT reads them, with the sizes below (bert-base-chinese's, as published). False: the adapter reads
            them directly, which is X-LLM's option "fc".
        faithful: let the language model see the unused places too, as X-LLM's code does.
    """

    model_type = "speech_interface_aligner"
    has_no_defaults_at_init = True  # Transformers before 5.20 compares what it writes with a config of defaults alone

    num_tokens: int = 20
    cif: dict | None = None
    token_size: int = 512
    bert: bool = True
    bert_hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    faithful: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.cif is None and self.token_size != self.feature_size:
            raise ValueError(
                f"token_size={self.token_size} is not the features' width {self.feature_size}: make them equal, or set "
                "`cif`, which changes the width."
            )
        if self.bert and self.num_tokens > self.max_positions:
            raise ValueError(f"num_tokens={self.num_tokens} is more than BERT's max_positions={self.max_positions}.")

    def cif_config(self) -> CifConfig:
        sizes = {"feature_size": self.feature_size, "hidden_size": self.token_size}
        return CifConfig(**{"initializer_range": self.initializer_range, **self.cif, **sizes})

    def bert_config(self) -> BertConfig:
        return BertConfig(
            vocab_size=1,  # token features take the place of word embeddings
            hidden_size=self.bert_hidden_size,
            num_hidden_layers=self.depth,
            num_attention_heads=self.num_heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_positions,
            layer_norm_eps=self.layer_norm_eps,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            initializer_range=self.initializer_range,
        )


@register_aligner("speech_interface")
class SpeechInterfaceAligner(Aligner):
    config: SpeechInterfaceAlignerConfig
    supports_gradient_checkpointing = True
    _supports_flash_attn = False

    def __init__(self, config: SpeechInterfaceAlignerConfig):
        super().__init__(config)
        if config.cif is not None:
            self.cif = CifModel(config.cif_config())
        if config.bert:
            self.bert_projection = nn.Linear(config.token_size, config.bert_hidden_size)
            self.bert = build(
                BertModel,
                config.bert_config(),
                add_pooling_layer=False,
                attn_implementation=config._attn_implementation,
            )
            del self.bert.embeddings.word_embeddings
        self.projection = nn.Linear(config.bert_hidden_size if config.bert else config.token_size, config.hidden_size)
        self.gradient_checkpointing = False  # without a BERT there is nothing to checkpoint, and no reason to refuse
        self.post_init()

    def train(self, mode: bool = True):
        """As usual, but a frozen CIF stays in eval mode, where the rest at an item's end is a token too."""
        super().train(mode)
        if self.config.cif is not None and not any(parameter.requires_grad for parameter in self.cif.parameters()):
            self.cif.eval()
        return self

    def token_features(self, features: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """`(items, length, dim)` frames or token features -> `(items, num_tokens, token_size)`, and which are real."""
        if mask is not None:  # the CIF's convolution reads beyond an item's end
            features = features.masked_fill(~mask.unsqueeze(-1), 0)
        if self.config.cif is None:
            real = features.sum(-1) != 0
        else:
            fired = self.cif(features, mask, return_dict=True)
            features, real = fired.last_hidden_state, fired.attention_mask
        count = self.config.num_tokens
        features, real = nn.functional.pad(features, (0, 0, 0, count)), nn.functional.pad(real, (0, count))
        return features[:, :count], real[:, :count]

    def forward(
        self, features: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """As every aligner's, and the tokens that are used, `(items, tokens)` bool (not if `faithful`)."""
        states, used = self.token_features(features.flatten(1, 2), None if mask is None else mask.flatten(1))
        if self.config.bert:
            states = self.bert_projection(states).relu()
            # Attention over nothing is not defined, so items without tokens are not masked for BERT.
            visible = used | ~used.any(-1, keepdim=True)
            states = same_attention(self.bert, self.config)(inputs_embeds=states, attention_mask=visible)
            states = states.last_hidden_state
        tokens = self.projection(states).relu()
        return tokens if self.config.faithful else (tokens, used)
