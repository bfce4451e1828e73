"""Hidden weights step as torch's Muon says, whatever their shape; all others as AdamW."""

import copy

import pytest
import torch
from torch import nn

from train.demo.pretrain.optimizer import MuonAdamW


def networks() -> nn.ModuleDict:
    torch.manual_seed(0)
    layers = nn.ModuleDict(
        {"flat": nn.Conv2d(6, 8, 3), "time": nn.Conv1d(8, 8, 3), "linear": nn.Linear(8, 4), "unseen": nn.Linear(4, 4)}
    )
    nn.utils.convert_conv2d_weight_memory_format(layers, torch.channels_last)
    return layers


def optimizer_of(layers: nn.ModuleDict) -> MuonAdamW:
    return MuonAdamW(
        [layer.weight for layer in layers.values()], [layer.bias for layer in layers.values()], 0.01, weight_decay=0.1
    )


def take(layers: nn.ModuleDict, optimizer: MuonAdamW, seed: int, rate: float = 0.01) -> None:
    torch.manual_seed(seed)
    for name, layer in layers.items():
        for parameter in (layer.weight, layer.bias):
            parameter.grad = None if name == "unseen" else torch.randn_like(parameter)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()


@pytest.mark.parametrize("name", ["flat", "time", "linear"])
def test_a_hidden_weight_steps_along_the_nearest_orthogonal_matrix(name: str) -> None:
    layers = networks()
    before = layers[name].weight.detach().clone().flatten(1)
    take(layers, optimizer_of(layers), 1)
    step = before * (1 - 0.01 * 0.1) - layers[name].weight.detach().flatten(1)
    singular = torch.linalg.svdvals(step)
    assert (singular / singular.mean() - 1).abs().max() < 0.5  # Muon's five iterations come so near
    assert (step.pow(2).mean().sqrt() / 0.01).item() == pytest.approx(0.2, rel=0.3)  # as large as a step of AdamW
    left, _, right = torch.linalg.svd(layers[name].weight.grad.flatten(1), full_matrices=False)
    assert torch.cosine_similarity(step.flatten(), (left @ right).flatten(), 0) > 0.9


def test_others_step_as_adamw_says_and_what_has_no_gradient_stays() -> None:
    layers = networks()
    before = copy.deepcopy(layers.state_dict())
    take(layers, optimizer_of(layers), 1, rate=0.005)
    expected = before["linear.bias"] * (1 - 0.005 * 0.1) - 0.005 * layers["linear"].bias.grad.sign()
    torch.testing.assert_close(layers["linear"].bias.detach(), expected)
    for name in ("unseen.weight", "unseen.bias"):
        assert torch.equal(layers.state_dict()[name], before[name])


def test_goes_on_exactly() -> None:
    layers, again = networks(), networks()
    optimizer = optimizer_of(layers)
    take(layers, optimizer, 1)
    state = copy.deepcopy(optimizer.state_dict())
    again.load_state_dict(layers.state_dict())
    resumed = optimizer_of(again)
    resumed.load_state_dict(state)
    for each, its in ((layers, optimizer), (again, resumed)):
        take(each, its, 2)
    for name, tensor in layers.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
