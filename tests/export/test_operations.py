"""Operations counted in graphs whose count is known."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from export.onnx_file import count_operations
from export.stages import Stage
from tests.export.layouts import open_exported

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which the counter does not know


def fused_operations(query, key, value, *_, **__) -> int:
    return sdpa_flop_count(query, key, value)


class Everything(nn.Module):
    """Each of the operators that count, once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, padding=1, groups=2)
        self.back = nn.ConvTranspose1d(6, 4, 3, padding=1)
        self.linear = nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(self.back(self.conv(x)).transpose(1, 2))  # [B, T, 8]
        heads = x.unflatten(2, (2, 4)).transpose(1, 2)  # [B, 2, T, 4]
        return nn.functional.scaled_dot_product_attention(heads, heads, heads)


def test_they_are_those_that_pytorch_counts(tmp_path: Path) -> None:
    stage = Stage("everything", Everything(), {"x": torch.randn(2, 4, 32)}, ("y",), {"x": {0: "batch", 2: "2*half"}})
    open_exported(stage, tmp_path)
    assert stage.open_sizes() == {"batch": 1, "half": 16}
    model = ir.load(tmp_path / "graph.onnx")
    for length in (32, 64):
        with FlopCounterMode(display=False, custom_mapping={FUSED: fused_operations}) as counted:
            stage.module(torch.randn(3, 4, length))
        assert count_operations(model, {"batch": 3, "half": length // 2}) == counted.get_total_flops()
    assert count_operations(model, {"batch": 3}) is None


class Pairs(nn.Module):
    """Rows two by two: inside, the open size is the number of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.unflatten(0, (-1, 2)).flatten(1))


def test_a_part_of_an_open_size_counts_too(tmp_path: Path) -> None:
    stage = Stage("pairs", Pairs(), {"x": torch.randn(6, 4)}, ("y",), {"x": {0: "2*pairs"}})
    assert open_exported(stage, tmp_path).outputs["y"].shape == ("pairs", 3)
    assert count_operations(ir.load(tmp_path / "graph.onnx"), stage.open_sizes()) == 2 * 3 * 8 * 3
