"""Every registered aligner keeps the promises of all."""

import pytest
import torch
from transformers import AutoModel

from modeling_tests import tiny
from modeling_tests.checks import tiny_setting
from modeling_tests.tiny_aligners import SMALL
from transformers_anymodality.aligners import ALIGNERS
from transformers_anymodality.utils.upstream import set_checkpointing


CASES = [(name, i) for name in ALIGNERS for i in range(len(SMALL.get(name, [{}])))]


def make(name: str, case: int = 0, length: int | None = 7, frames: int = 2, **kwargs):
    settings = {**tiny_setting(SMALL, name, "SMALL in tiny_aligners.py")[case], **kwargs}
    config = ALIGNERS[name].config_class(
        feature_size=12, hidden_size=20, feature_length=length, num_frames=frames, **settings
    )
    aligner = AutoModel.from_config(config).eval()
    tiny.spread(aligner)
    return aligner


def run(aligner, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Tokens of an aligner, with a table of 11 tokens for one that reads the language model's; used or not."""
    table = torch.sin(torch.arange(220.0)).view(11, 20)
    tokens = aligner(features, mask, **({"token_embeddings": table} if aligner.reads_token_embeddings else {}))
    return tokens[0] if isinstance(tokens, tuple) else tokens


@pytest.mark.parametrize("name, case", CASES)
def test_shapes_and_counts(name, case):
    aligner = make(name, case)
    tokens = run(aligner, torch.randn(5, 2, 7, 12))
    assert tokens.shape == (5, aligner.config.count_tokens(2, 7), 20)


@pytest.mark.parametrize("name, case", CASES)
def test_padding_is_not_read(name, case):
    aligner = make(name, case, length=None, frames=1)
    if (name, case) == ("perceiver_resampler", 1):
        pytest.skip("frame embeddings make no difference with one frame")
    short = torch.randn(1, 1, 5, 12)
    padded = torch.cat([short, 1e3 * torch.ones(1, 1, 4, 12)], dim=2)
    mask = torch.tensor([True] * 5 + [False] * 4).view(1, 1, 9)
    count = aligner.config.count_tokens(1, 5)
    tokens, expected = run(aligner, padded, mask), run(aligner, short)
    torch.testing.assert_close(tokens[:, :count], expected[:, :count], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name, case", CASES)
def test_eager_equals_sdpa(name, case):
    aligner, features = make(name, case), torch.randn(3, 2, 7, 12)
    expected = run(aligner, features)
    aligner.set_attn_implementation("eager")
    torch.testing.assert_close(run(aligner, features), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name, case", CASES)
def test_saves_loads_and_trains_every_weight(name, case, tmp_path):
    aligner, features = make(name, case), torch.randn(3, 2, 7, 12)
    aligner.save_pretrained(tmp_path)
    assert torch.equal(run(AutoModel.from_pretrained(tmp_path), features), run(aligner, features))
    aligner.train()
    (run(aligner, features) * torch.randn(20)).sum().backward()
    assert [n for n, p in aligner.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name, case", CASES)
def test_gradient_checkpointing_changes_nothing(name, case):
    features, gradients = torch.randn(3, 2, 7, 12), []
    if not ALIGNERS[name].supports_gradient_checkpointing:
        pytest.skip("too small to checkpoint")
    for checkpointing in (False, True):
        torch.manual_seed(0)
        aligner = make(name, case).train()
        if checkpointing:
            set_checkpointing(aligner, True)
        run(aligner, features.clone().requires_grad_()).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in aligner.parameters()]))
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), CASES)
def test_whether_it_compiles_whole_is_said(name, case):
    aligner = make(name, case, frames=1)
    features, mask = torch.randn(2, 1, 7, 12), torch.arange(7).expand(2, 1, 7) < torch.tensor([7, 4])[:, None, None]
    torch._dynamo.reset()
    try:
        compiled = run(torch.compile(aligner, fullgraph=True, backend="eager"), features, mask)
    except torch._dynamo.exc.Unsupported:
        assert not aligner._can_compile_fullgraph
    else:
        assert aligner._can_compile_fullgraph
        torch.testing.assert_close(compiled, run(aligner, features, mask))


def test_pixel_shuffle_merges_neighbours():
    aligner = make("mlp", length=16, frames=1, pool="pixel_shuffle", pool_size=2)
    features = torch.arange(16.0).view(1, 1, 16, 1).expand(1, 1, 16, 12)
    merged, _ = aligner.merge(features, None)
    assert merged[0, 0, :, ::12].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert aligner(features).shape == (1, 4, 20)
    with pytest.raises(ValueError, match="not a square grid.*select_feature"):
        aligner.config.count_tokens(1, 17)
