from __future__ import annotations

import torch

from train.first_stage.discriminators import PERIODS, Discriminators, discriminator_loss, generator_losses
from train.first_stage.losses import RESOLUTIONS


def test_they_learn_to_tell_tones_from_noise() -> None:
    torch.manual_seed(0)
    discriminator = Discriminators(4)
    optimizer = torch.optim.AdamW(discriminator.parameters(), 3e-3)
    true = 0.3 * torch.sin(2 * torch.pi * 0.03 * torch.arange(4096))[None]
    first = last = 0.0
    for step in range(12):
        loss = discriminator_loss(discriminator, true, 0.3 * torch.randn(1, 4096))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item(), 0.0) if step == 0 else (first, loss.item())
    assert last < 0.6 * first


def test_equal_waves_have_equal_features() -> None:
    discriminator = Discriminators(4)
    wave = torch.randn(2, 4096)
    assert len(discriminator(wave)) == len(PERIODS) + len(RESOLUTIONS)
    _, features = generator_losses(discriminator, wave, wave.clone())
    assert features == 0


def test_generator_is_moved_by_both_terms() -> None:
    discriminator = Discriminators(4)
    for term in range(2):
        made = torch.randn(1, 4096, requires_grad=True)
        generator_losses(discriminator, torch.randn(1, 4096), made)[term].backward()
        assert made.grad is not None
        assert made.grad.any()
