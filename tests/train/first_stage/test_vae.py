from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from train.first_stage.publish import open_vae, publish_vae
from train.first_stage.vae import VAETask, latent_moments, normalise_latents
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
        mean, deviation = latent_moments(vae, mels)
        normalise_latents(vae, mean, deviation)
        after = vae.encode(mels[0]).latent_dist
        scale = deviation.float()[:, None, None]
        assert (vae.decode(after.mode()).sample - decoded).abs().max() < 1e-4 * decoded.abs().max()
        torch.testing.assert_close(after.std * scale, before.std, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(after.mean * scale + mean.float()[:, None, None], before.mean, rtol=1e-4, atol=1e-4)


def test_folded_latents_have_unit_deviation(config: SystemConfig) -> None:
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


def test_losses_name_their_parts(config: SystemConfig) -> None:
    task = VAETask(config, 16, kl=0.5)
    assert task.crop == (16 + 2 * 4) * 160
    losses = task.losses(task.model, torch.randn(2, task.crop) * 0.1)
    assert set(losses.parts) == {"mel_l1", "kl"}
    assert losses.total > losses.parts["mel_l1"] + 0.5 * losses.parts["kl"]
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in task.model.parameters())


def test_crops_are_whole_latent_steps(config: SystemConfig) -> None:
    with pytest.raises(OptionError, match="frames is 15, a multiple of 2"):
        VAETask(config, 15, kl=0.0)


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
