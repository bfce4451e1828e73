import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

import train.models.attention
from train.models.attention import AttentionProcessor


@pytest.fixture
def cross() -> Attention:
    torch.manual_seed(0)
    return Attention(query_dim=32, cross_attention_dim=24, heads=4, dim_head=8, upcast_attention=True).eval()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [B, L, C], tokens [B, N, D] and bias [B, 1, N] that hides the second clip's last two tokens."""
    generator = torch.Generator().manual_seed(1)
    bias = torch.zeros(2, 1, 5)
    bias[1, :, 3:] = -10000.0
    return torch.randn(2, 7, 32, generator=generator), torch.randn(2, 5, 24, generator=generator), bias


def test_equals_diffusers_own_with_a_mask(cross: Attention, inputs: tuple[torch.Tensor, ...]) -> None:
    hidden, tokens, bias = inputs
    expected = AttnProcessor2_0()(cross, hidden, tokens, bias)
    torch.testing.assert_close(AttentionProcessor()(cross, hidden, tokens, bias), expected)


def test_equals_diffusers_own_on_maps() -> None:
    torch.manual_seed(0)
    attention = Attention(32, heads=1, dim_head=32, bias=True, norm_num_groups=8, residual_connection=True, eps=1e-6)
    attention.rescale_output_factor = 2.0
    maps = torch.randn(2, 32, 3, 5)
    expected = AttnProcessor2_0()(attention, maps)
    torch.testing.assert_close(AttentionProcessor()(attention, maps), expected)


def test_masked_tokens_do_not_matter(cross: Attention, inputs: tuple[torch.Tensor, ...]) -> None:
    hidden, tokens, bias = inputs
    changed = tokens.clone()
    changed[1, 3:] = 100.0
    processor = AttentionProcessor()
    torch.testing.assert_close(processor(cross, hidden, changed, bias), processor(cross, hidden, tokens, bias))


@pytest.mark.parametrize(("upcast", "inside"), [(True, torch.float32), (False, torch.float16)])
def test_half_precision_is_upcast_where_the_flag_says_so(
    cross: Attention,
    inputs: tuple[torch.Tensor, ...],
    monkeypatch: pytest.MonkeyPatch,
    upcast: bool,
    inside: torch.dtype,
) -> None:
    seen: list[torch.dtype] = []

    def record(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        seen.extend(tensor.dtype for tensor in (query, key, value, attn_mask))
        return query

    monkeypatch.setattr(train.models.attention, "scaled_dot_product_attention", record)
    cross.upcast_attention = upcast
    hidden, tokens, bias = (tensor.half() for tensor in inputs)
    out = AttentionProcessor()(cross.half(), hidden, tokens, bias)
    assert seen == [inside] * 4
    assert out.dtype == torch.float16


def test_large_logits_survive_half_precision(cross: Attention, inputs: tuple[torch.Tensor, ...]) -> None:
    """Logits beyond 65504, as this family has them, are finite and near those of float32."""
    hidden, tokens, bias = inputs
    cross.to_q.weight *= 2000
    cross.to_k.weight *= 200
    expected = AttentionProcessor()(cross, hidden, tokens, bias)
    half = AttentionProcessor()(cross.half(), hidden.half(), tokens.half(), bias.half())
    assert half.isfinite().all()
    torch.testing.assert_close(half.float(), expected, atol=2e-2, rtol=2e-2)


def test_exports_as_one_operator_without_a_mask_per_head(cross: Attention, inputs: tuple[torch.Tensor, ...]) -> None:
    cross.set_processor(AttentionProcessor())
    program = torch.export.export(cross, inputs)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("aten.scaled_dot_product_attention.default") == 1
    assert not [target for target in targets if "softmax" in target or "repeat" in target]
