"""The optimizers of a tower: Muon for what turns features into features, AdamW for the rest.

Muon (https://kellerjordan.github.io/posts/muon/) steps along the nearest orthogonal matrix of a gradient's momentum, so that
rare directions are learned as fast as common ones. It is meant for the matrices of hidden layers; torch's takes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW(torch.optim.Optimizer):
    """Both at once, at one learning rate; what has no gradient stays as it is.

    Args:
        hidden: weights of inner layers, [out, in, ...]; those of convolutions in two dimensions lie channels last in memory.
        rest: all other parameters.
    """

    def __init__(
        self, hidden: Sequence[nn.Parameter], rest: Sequence[nn.Parameter], learning_rate: float, weight_decay: float
    ) -> None:
        super().__init__([*hidden, *rest], {"lr": learning_rate})
        self._hidden = hidden
        # The same memory under another shape.
        self._matrices = [nn.Parameter(_channels_last(weight.data).view(len(weight), -1)) for weight in hidden]
        muon = torch.optim.Muon(self._matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._each = (muon, torch.optim.AdamW(rest, weight_decay=weight_decay))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for weight, matrix in zip(self._hidden, self._matrices, strict=True):
            matrix.grad = None if weight.grad is None else _channels_last(weight.grad).reshape(matrix.shape)
        for optimizer in self._each:
            for group in optimizer.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"each": [optimizer.state_dict() for optimizer in self._each]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self._each, state_dict["each"], strict=True):
            optimizer.load_state_dict(state)


def _channels_last(weight: Tensor) -> Tensor:
    return weight.movedim(1, -1) if weight.ndim == 4 else weight
