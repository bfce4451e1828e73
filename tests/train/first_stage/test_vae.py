from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from train.first_stage.publish import open_vae, publish_vae
from train.first_stage.task import FirstStageLengthSettings, FirstStageTask, SoundSettings, VAESettings
from train.first_stage.vae import latent_moments, normalise_latents
from train.models.config import SystemConfig
from train.models.vae import build_vae
from vta_rt.errors import OptionError, OutputError, VTAError


def test_folding_changes_latents_and_nothing_else(config: SystemConfig) -> None:
    torch.manual_seed(0)
    vae = build_vae(config.vae).eval()
    mels = [torch.randn(2, 1, 16, 64) * 2 - 5 for _ in range(3)]
    with torch.no_grad():
        vae.quant_conv.bias.normal_(std=3)  # as latents of several scales and centres
        vae.quant_conv.weight[0] *= 5
        before = vae.encode(mels[0]).latent_dist
        decoded = vae.decode(before.mode()).sample
        mean, std = latent_moments(vae, mels)
        normalise_latents(vae, mean, std)
        after = vae.encode(mels[0]).latent_dist
        scale = std.float()[:, None, None]
        assert (vae.decode(after.mode()).sample - decoded).abs().max() < 1e-4 * decoded.abs().max()
        torch.testing.assert_close(after.std * scale, before.std, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(after.mean * scale + mean.float()[:, None, None], before.mean, rtol=1e-4, atol=1e-4)


def test_folded_latents_have_unit_standard_deviation(config: SystemConfig) -> None:
    torch.manual_seed(1)
    vae = build_vae(config.vae).eval()
    mels = [torch.randn(4, 1, 16, 64) * 2 - 5 for _ in range(3)]
    with torch.no_grad():
        vae.quant_conv.bias.normal_(std=2)
        normalise_latents(vae, *latent_moments(vae, mels))
        samples = torch.cat([vae.encode(mel).latent_dist.sample() for mel in mels])  # [B, C, T, F]
    by_channel = samples.transpose(0, 1).flatten(1)
    np.testing.assert_allclose(by_channel.mean(1), 0, atol=0.1)
    np.testing.assert_allclose(by_channel.std(1), 1, atol=0.1)


def test_losses_name_their_parts(build_task: Callable[..., FirstStageTask]) -> None:
    task = build_task(VAESettings(data=SoundSettings(frames=16), kl=0.5))
    assert task.crop == (16 + 2 * 4) * 160
    model = task.players[0].module
    (loss,) = task.losses((0, torch.randn(2, task.crop) * 0.1), model)
    assert list(loss.figures) == ["loss", "mel_l1", "kl"]
    assert loss.total > loss.figures["mel_l1"] + 0.5 * loss.figures["kl"]
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_crops_are_full_latent_steps(build_task: Callable[..., FirstStageTask]) -> None:
    with pytest.raises(OptionError, match="frames is 15, a multiple of 2"):
        build_task(VAESettings(data=SoundSettings(frames=15)))


def test_what_a_step_sees_follows_from_its_number(build_task: Callable[..., FirstStageTask]) -> None:
    """And several processes share it between them."""
    task = build_task(VAESettings(length=FirstStageLengthSettings(batch=4), data=SoundSettings(frames=2)))
    first, second = (next(steps)[0][1] for steps in [task.batches(3)] * 2)
    assert next(task.batches(3))[0][1].equal(first)
    assert not second.equal(first)
    task.micro_batch = 2
    parts = []
    for rank in (0, 1):
        task.accelerator = Mock(num_processes=2, process_index=rank, device=torch.device("cpu"))
        parts.append(next(task.batches(3))[0][1])
    assert torch.cat(parts).equal(first)


def test_an_autoencoder_without_all_its_weights_is_refused(config: SystemConfig, tmp_path: Path) -> None:
    """Diffusers would fill them up at random."""
    publish_vae(build_vae(config.vae), config, tmp_path)
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["decoder.conv_in.weight"]
    save_file(weights, file)
    with pytest.raises(VTAError, match=r"has 1 missing keys for an autoencoder, such as decoder\.conv_in\.weight"):
        open_vae(tmp_path)


@pytest.mark.parametrize("error", [SafetensorError("No space left on device"), OSError(28, "No space left on device")])
def test_a_full_disk_is_one_line_and_leaves_the_old_folder(
    config: SystemConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    publish_vae(build_vae(config.vae), config, tmp_path)
    before = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")

    def fail(vae: object, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr(AutoencoderKL, "save_pretrained", fail)
    with pytest.raises(OutputError, match=r"vae: cannot be written \(No space left on device\)"):
        publish_vae(build_vae(config.vae), config, tmp_path)
    after = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "vae"]
