"""One attention processor for every diffusers ``Attention`` in the UNet and the VAE.

Exists because diffusers' own ignores ``upcast_attention``, and expands the mask over the heads, which leaves an
exported graph with more than the one ``Attention`` operator that this leaves.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.compiler import is_exporting
from torch.nn.functional import scaled_dot_product_attention


class AttentionProcessor:
    """Scaled dot-product attention over [B, L, C] or [B, C, H, W], in float32 where the layer's upcast flag asks for it."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Args:
        hidden_states: [B, L, C], or maps [B, C, H, W], which keep their form.
        encoder_hidden_states: [B, N, D] to attend to; self-attention where None.
        attention_mask: additive bias [B, 1 or L, N]: 0 where a key is attended to, and very negative where not.
        temb: unused; the VAE passes it to every processor.
        """
        residual = hidden_states
        if residual.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # [B, H * W, C]
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        query = _split_heads(attn.to_q(hidden_states), attn.heads)
        key = _split_heads(attn.to_k(context), attn.heads)
        value = _split_heads(attn.to_v(context), attn.heads)
        if attention_mask is not None and attn.upcast_attention and query.dtype != torch.float32 and is_exporting():
            # TensorRT (11.4, RTX 1.7) computes this in half precision, with float32 sums, and fails on a float32 bias.
            attention_mask = attention_mask == 0
        # ONNX Runtime's Attention takes a bias that broadcasts over the heads, but not over the queries.
        bias = (
            None if attention_mask is None else attention_mask[:, None].expand(-1, -1, query.shape[2], -1)
        )  # [B, 1, L, N]
        out = _attend(query, key, value, bias, upcast=attn.upcast_attention)

        out = attn.to_out[0](out.transpose(1, 2).flatten(2))  # [B, L, C]
        if residual.ndim == 4:
            out = out.transpose(1, 2).reshape(residual.shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor if attn.rescale_output_factor != 1 else out


def use_sdpa(model: nn.Module) -> None:
    """Give every attention layer of ``model`` the processor above."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(AttentionProcessor())


def _split_heads(hidden: Tensor, heads: int) -> Tensor:
    return hidden.unflatten(2, (heads, -1)).transpose(1, 2)  # [B, L, heads * width] -> [B, heads, L, width]


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, upcast: bool) -> Tensor:
    """Attention of [B, heads, L, width] on [B, heads, N, width]; logits and sums in float32 where ``upcast``.

    bias: additive, or bool, true where a key is attended to.
    """
    dtype = query.dtype
    if upcast and dtype != torch.float32:
        query, key, value = query.float(), key.float(), value.float()
        bias = bias if bias is None or bias.dtype == torch.bool else bias.float()
    return scaled_dot_product_attention(query, key, value, attn_mask=bias).to(dtype)
