"""What several towers have in common."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

SKIPPED_CLIP_PARTS = ("text_model.", "text_projection.", "logit_scale")


def rename_clip(name: str) -> str | None:
    """Skips the parts of a complete CLIP that see no frames, and the positions' indices, which are no weights."""
    return None if name.endswith("position_ids") or name.startswith(SKIPPED_CLIP_PARTS) else name


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Softmax attention of each with all, split into heads: [B, N, W] three times -> [B, N, W]."""
    parts = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))  # [B, heads, N, W / heads]
    return scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


class Perceptron(nn.Module):
    """Two linear layers: [..., W] -> [..., W]."""

    def __init__(self, width: int, inner: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self._activation = activation

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(self._activation(self.fc1(hidden)))
