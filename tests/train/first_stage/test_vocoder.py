from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train.first_stage.publish import publish_vae, publish_vocoder
from train.first_stage.task import DiscriminatorSettings, FirstStageTask, SoundSettings, VocoderSettings
from train.first_stage.vocoder import build_trainable_vocoder, plain_state
from train.models.config import SystemConfig, VocoderConfig
from train.models.sinusoidal import SinusoidalVocoder
from train.models.vocoder import build_vocoder
from vta_rt.errors import OptionError


def test_weight_norm_folds_away(config: SystemConfig) -> None:
    torch.manual_seed(0)
    trained = build_trainable_vocoder(config)
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
        assert build_trainable_vocoder(config)(torch.randn(1, 13, 64)).shape == (1, 13 * 160)


def test_fresh_hifigan_is_heard(config: SystemConfig) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        wave = build_trainable_vocoder(config)(torch.randn(2, 30, 64) * 2 - 5)
    assert 0.01 < wave.std() < 0.9


def test_sizes_must_be_those_of_the_mel(config: SystemConfig) -> None:
    with pytest.raises(OptionError, match="multiply to 80"):
        build_trainable_vocoder(replace(config, vocoder=replace(config.vocoder, upsample_rates=(8, 5, 2))))


def test_oscillators_get_their_tables(config: SystemConfig) -> None:
    vocoder = build_trainable_vocoder(replace(config, vocoder=VocoderConfig(kind="sinusoidal", width=4, layers=1)))
    assert isinstance(vocoder, SinusoidalVocoder)
    assert vocoder.centre.all()


CROP = SoundSettings(frames=20)


@pytest.mark.parametrize("kind", ["hifigan", "sinusoidal"])
def test_losses_reach_every_weight(build_task: Callable[..., FirstStageTask], config: SystemConfig, kind: str) -> None:
    torch.manual_seed(0)
    vocoder = replace(config.vocoder, kind=kind, width=4, layers=1)
    task = build_task(VocoderSettings(data=CROP), replace(config, vocoder=vocoder))
    model = task.players[0].module
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)  # the last layer of levels begins at zero
    (loss,) = task.losses((0, torch.randn(2, task.crop) * 0.1), model)
    loss.total.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_half_of_the_mels_pass_through_the_autoencoder(
    build_task: Callable[..., FirstStageTask], config: SystemConfig, tmp_path: Path
) -> None:
    from train.models.vae import build_vae

    publish_vae(build_vae(config.vae), config, tmp_path)
    task = build_task(VocoderSettings(data=CROP, vae=str(tmp_path)))
    mel = torch.randn(4, 20, 64)
    seen = task._decode_half(mel)
    torch.testing.assert_close(seen[:2], mel[:2])
    assert seen.shape == mel.shape
    assert (seen[2:] - mel[2:]).abs().mean() > 0.1


def test_places_of_crowded_partials_are_learned(
    build_task: Callable[..., FirstStageTask], config: SystemConfig
) -> None:
    """Two partials in neighbouring bands, where the table alone is wrong."""
    torch.manual_seed(0)
    vocoder = VocoderConfig(kind="sinusoidal", width=8, layers=2)
    task = build_task(VocoderSettings(data=CROP), replace(config, vocoder=vocoder))
    model = task.players[0].module
    samples = torch.arange(task.crop) / 16000
    wave = sum(0.2 * torch.sin(2 * torch.pi * frequency * samples) for frequency in (175.0, 233.0))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    distances = []
    for step in range(15):
        (loss,) = task.losses((step, wave[None]), model)
        optimizer.zero_grad()
        loss.figures["place"].backward()
        optimizer.step()
        distances.append(loss.figures["place"].item())
    assert distances[0] > 0.1
    assert distances[-1] < 0.5 * distances[0]


@pytest.mark.parametrize("kind", ["hifigan", "sinusoidal"])
def test_training_begins_with_the_weights_given(config: SystemConfig, kind: str, tmp_path: Path) -> None:
    sizes = replace(config, vocoder=replace(config.vocoder, kind=kind, width=4, layers=1))
    torch.manual_seed(0)
    first = build_trainable_vocoder(sizes)
    publish_vocoder(plain_state(first), sizes, tmp_path)
    again = build_trainable_vocoder(sizes, tmp_path / "vocoder")
    mel = torch.randn(1, 5, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(mel), first(mel), rtol=1e-4, atol=1e-6)
    wider = replace(sizes, vocoder=replace(sizes.vocoder, width=8, initial_channels=64))
    with pytest.raises(OptionError, match="not of the sizes configured"):
        build_trainable_vocoder(wider, tmp_path / "vocoder")


def test_discriminators_hear_what_published_kernels_make(
    build_task: Callable[..., FirstStageTask], config: SystemConfig
) -> None:
    """They give a tail, which the true wave has not. The discriminators take part from the step given on."""
    kernels = VocoderConfig(
        initial_channels=32,
        upsample_rates=(5, 4, 2, 2, 2),
        upsample_kernels=(16, 16, 8, 4, 4),
        resblock_kernels=(3,),
        resblock_dilations=((1,),),
    )
    adversary = DiscriminatorSettings(from_step=1, width=4)
    settings = VocoderSettings(data=SoundSettings(frames=27), discriminator=adversary)
    task = build_task(settings, replace(config, vocoder=kernels))
    modules, waves = [player.module for player in task.players], torch.randn(2, task.crop) * 0.1
    assert [loss.player for loss in task.losses((0, waves), *modules)] == [0]
    theirs, ours = task.losses((1, waves), *modules)
    assert (theirs.player, ours.player) == (1, 0)
    assert all(ours.figures[name].isfinite() and ours.figures[name] > 0 for name in ("fooling", "features"))
    assert ours.total > theirs.total
