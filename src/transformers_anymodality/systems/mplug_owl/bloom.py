"""BLOOM as in mPLUG-Owl: text embeddings are normed before media are inserted, and media are not normed.

Stock BLOOM norms all embeddings that it is given. With the norm inside the embedding module, no other change is needed."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BloomConfig, BloomForCausalLM, BloomModel


class MplugOwlBloomConfig(BloomConfig):
    model_type = "mplug_owl_bloom"


class NormedEmbedding(nn.Embedding):
    def __init__(self, embedding: nn.Embedding, norm: nn.LayerNorm):
        super().__init__(*embedding.weight.shape, _weight=embedding.weight)
        self.norm = norm

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(input))


class MplugOwlBloomModel(BloomModel):
    config_class = MplugOwlBloomConfig

    def __init__(self, config: MplugOwlBloomConfig):
        super().__init__(config)
        self.word_embeddings = NormedEmbedding(self.word_embeddings, self.word_embeddings_layernorm)
        self.word_embeddings_layernorm = nn.Identity()


class MplugOwlBloomForCausalLM(BloomForCausalLM):
    config_class = MplugOwlBloomConfig

    def __init__(self, config: MplugOwlBloomConfig):
        super(BloomForCausalLM, self).__init__(config)  # not the stock model as well
        self.transformer = MplugOwlBloomModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


AutoConfig.register(MplugOwlBloomConfig.model_type, MplugOwlBloomConfig, exist_ok=True)
AutoModel.register(MplugOwlBloomConfig, MplugOwlBloomModel, exist_ok=True)
AutoModelForCausalLM.register(MplugOwlBloomConfig, MplugOwlBloomForCausalLM, exist_ok=True)
