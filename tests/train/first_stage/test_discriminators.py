from __future__ import annotations

import torch

from train.first_stage.discriminators import PERIODS, Critic, critic_loss, fooling_loss
from train.first_stage.losses import RESOLUTIONS


def test_critic_learns_to_tell_tones_from_noise() -> None:
    torch.manual_seed(0)
    critic = Critic(4)
    optimizer = torch.optim.AdamW(critic.parameters(), 3e-3)
    true = 0.3 * torch.sin(2 * torch.pi * 0.03 * torch.arange(4096))[None]
    first = last = 0.0
    for step in range(12):
        loss = critic_loss(critic, true, 0.3 * torch.randn(1, 4096))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item(), 0.0) if step == 0 else (first, loss.item())
    assert last < 0.6 * first


def test_equal_waves_have_equal_features() -> None:
    critic = Critic(4)
    wave = torch.randn(2, 4096)
    assert len(critic(wave)) == len(PERIODS) + len(RESOLUTIONS)
    _, features = fooling_loss(critic, wave, wave.clone())
    assert features == 0


def test_generator_is_moved_by_both_terms() -> None:
    critic = Critic(4)
    for term in range(2):
        made = torch.randn(1, 4096, requires_grad=True)
        fooling_loss(critic, torch.randn(1, 4096), made)[term].backward()
        assert made.grad is not None
        assert made.grad.any()
