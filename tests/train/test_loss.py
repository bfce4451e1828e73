import numpy as np
import pytest
import torch

from export.bundling import Checkpoint
from train.model import build_scheduler, diffusion_loss, min_snr_weight
from vta_rt.schedule import NoiseSchedule

Goldens = dict[str, np.ndarray]


def loss(checkpoint: Checkpoint, goldens: Goldens, **options: object) -> float:
    names = ("loss_latents", "loss_noise", "loss_timesteps", "cond_batch", "cond_batch_mask")
    batch = [torch.from_numpy(goldens[name]) for name in names]
    return diffusion_loss(checkpoint.modules.unet, build_scheduler(checkpoint.config.noise), *batch, **options).item()


def test_plain(checkpoint: Checkpoint, goldens: Goldens) -> None:
    assert loss(checkpoint, goldens) == pytest.approx(float(goldens["loss_mse"]), rel=1e-4)


def test_published_min_snr(checkpoint: Checkpoint, goldens: Goldens) -> None:
    value = loss(checkpoint, goldens, snr_gamma=5.0, weighting="noise")
    assert value == pytest.approx(float(goldens["loss_snr5"]), rel=1e-4)


def test_min_snr_for_v_is_the_default(checkpoint: Checkpoint, goldens: Goldens) -> None:
    """The two samples' errors follow from the two golden losses, and what they weigh for v from the paper."""
    alphas = build_scheduler(checkpoint.config.noise).alphas_cumprod.double().numpy()[goldens["loss_timesteps"]]
    snr = alphas / (1 - alphas)
    clipped = np.minimum(snr, 5.0)
    losses = [2 * goldens["loss_mse"], 2 * goldens["loss_snr5"]]
    errors = np.linalg.solve(np.stack([np.ones(2), clipped / snr]), losses)
    expected = np.mean(errors * clipped / (snr + 1))
    assert loss(checkpoint, goldens, snr_gamma=5.0) == pytest.approx(expected, rel=1e-4)


def test_weights() -> None:
    snr = torch.tensor([0.01, 5.0, 100.0])
    torch.testing.assert_close(min_snr_weight(snr, 5.0, "noise"), torch.tensor([1.0, 1.0, 0.05]))
    torch.testing.assert_close(min_snr_weight(snr, 5.0, "v"), torch.tensor([0.01 / 1.01, 5 / 6, 5 / 101]))


def test_noise_prediction_is_compared_with_the_noise() -> None:
    scheduler = build_scheduler(NoiseSchedule(prediction_type="epsilon"))
    noise = torch.randn(2, 8, 4, 4)

    def perfect(*_: object, **__: object) -> object:
        return type("Output", (), {"sample": noise})

    zero = torch.zeros_like(noise)
    value = diffusion_loss(perfect, scheduler, zero, noise, torch.tensor([3, 900]), zero, zero)  # type: ignore[arg-type]
    assert value == 0
