from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from train.first_stage.vocoder import VocoderTask, plain_state, trainable_vocoder
from train.models.config import SystemConfig, VocoderConfig
from train.models.sinusoidal import SinusoidalVocoder
from train.models.vocoder import build_vocoder
from vta_rt.errors import OptionError


def test_weight_norm_folds_away(config: SystemConfig) -> None:
    torch.manual_seed(0)
    trained = trainable_vocoder(config)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.1)
        plain = build_vocoder(config.vocoder)
        plain.load_state_dict(plain_state(trained))
        mel = torch.randn(2, 10, 64)
        torch.testing.assert_close(plain(mel), trained(mel), rtol=1e-5, atol=1e-6)


def test_a_mel_frame_is_a_hop_of_samples(config: SystemConfig) -> None:
    """Kernels that exceed their rates by an even number leave no tail."""
    with torch.no_grad():
        assert trainable_vocoder(config)(torch.randn(1, 13, 64)).shape == (1, 13 * 160)


def test_fresh_hifigan_is_heard(config: SystemConfig) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        wave = trainable_vocoder(config)(torch.randn(2, 30, 64) * 2 - 5)
    assert 0.01 < wave.std() < 0.9


def test_sizes_must_be_those_of_the_mel(config: SystemConfig) -> None:
    with pytest.raises(OptionError, match="multiply to 80"):
        trainable_vocoder(replace(config, vocoder=replace(config.vocoder, upsample_rates=(8, 5, 2))))


def test_oscillators_get_their_tables(config: SystemConfig) -> None:
    vocoder = trainable_vocoder(replace(config, vocoder=VocoderConfig(kind="sinusoidal", width=4, layers=1)))
    assert isinstance(vocoder, SinusoidalVocoder)
    assert vocoder.centre.all()


@pytest.mark.parametrize("kind", ["hifigan", "sinusoidal"])
def test_losses_reach_every_weight(config: SystemConfig, kind: str) -> None:
    torch.manual_seed(0)
    vocoder = replace(config.vocoder, kind=kind, width=4, layers=1)
    task = VocoderTask(replace(config, vocoder=vocoder), 20, vae=None, critic=None)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)  # the last layer of levels begins at zero
    losses = task.losses(task.model, torch.randn(2, task.crop) * 0.1)
    losses.total.backward()
    assert losses.pair is not None
    assert losses.pair[0].shape == losses.pair[1].shape == (2, 20 * 160)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in task.model.parameters())


def test_half_of_the_mels_pass_through_the_autoencoder(config: SystemConfig) -> None:
    from train.models.vae import build_vae

    task = VocoderTask(config, 20, vae=build_vae(config.vae).eval(), critic=None)
    mel = torch.randn(4, 20, 64)
    seen = task._seen(mel)
    torch.testing.assert_close(seen[:2], mel[:2])
    assert seen.shape == mel.shape
    assert (seen[2:] - mel[2:]).abs().mean() > 0.1


def test_places_of_crowded_partials_are_learned(config: SystemConfig) -> None:
    """Two partials in neighbouring bands, where the table alone is wrong."""
    torch.manual_seed(0)
    task = VocoderTask(replace(config, vocoder=VocoderConfig(kind="sinusoidal", width=8, layers=2)), 20)
    samples = torch.arange(task.crop) / 16000
    wave = sum(0.2 * torch.sin(2 * torch.pi * frequency * samples) for frequency in (175.0, 233.0))
    optimizer = torch.optim.AdamW(task.model.parameters(), 1e-2)
    distances = []
    for _ in range(15):
        parts = task.losses(task.model, wave[None]).parts
        optimizer.zero_grad()
        parts["place"].backward()
        optimizer.step()
        distances.append(parts["place"].item())
    assert distances[0] > 0.1
    assert distances[-1] < 0.5 * distances[0]


@pytest.mark.parametrize("kind", ["hifigan", "sinusoidal"])
def test_training_begins_with_the_weights_given(config: SystemConfig, kind: str) -> None:
    sizes = replace(config, vocoder=replace(config.vocoder, kind=kind, width=4, layers=1))
    torch.manual_seed(0)
    first = trainable_vocoder(sizes)
    again = trainable_vocoder(sizes, plain_state(first))
    mel = torch.randn(1, 5, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(mel), first(mel), rtol=1e-4, atol=1e-6)
    with pytest.raises(OptionError, match="not of the sizes configured"):
        trainable_vocoder(
            replace(sizes, vocoder=replace(sizes.vocoder, width=8, initial_channels=64)), plain_state(first)
        )


def test_a_critic_hears_what_published_kernels_make(config: SystemConfig) -> None:
    """They give a tail, which the true wave has not."""
    kernels = VocoderConfig(
        initial_channels=32,
        upsample_rates=(5, 4, 2, 2, 2),
        upsample_kernels=(16, 16, 8, 4, 4),
        resblock_kernels=(3,),
        resblock_dilations=((1,),),
    )
    task = VocoderTask(replace(config, vocoder=kernels), 27, None, critic=4)
    waves = torch.randn(2, task.crop) * 0.1
    losses = task.losses(task.model, waves)
    assert losses.pair is not None
    true, made = losses.pair
    assert true.shape == made.shape == (2, 27 * 160)
    assert task.critic is not None
    assert task.adversarial(task.critic, losses.pair)["fooling"].isfinite()
