"""Every form of the first stage opens as the same two modules; everything else is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import SpeechT5HifiGan

from export.bundling import open_checkpoint
from tests.export.layouts import (
    MODEL,
    SMALL_VAE,
    SMALL_VOCODER,
    StateDict,
    assert_same_tensors,
    refusal,
    save_audioldm,
    save_pipeline,
)
from train.models.config import VAEConfig, VocoderConfig
from train.models.vae import build_vae, to_legacy_name
from train.models.vocoder import build_vocoder
from train.models.weights import strip_prefix


def as_audioldm(path: Path, tensors: StateDict, *_: object) -> Path:
    save_audioldm(path / "any-name.ckpt", tensors)
    return path / "any-name.ckpt"


def as_audioldm_folder(path: Path, tensors: StateDict, *_: object) -> Path:
    save_audioldm(path / "audioldm-s-full.ckpt", tensors)
    return path


def as_accelerate_pickle(path: Path, tensors: StateDict, *_: object) -> Path:
    torch.save(tensors, path / "pytorch_model.bin")
    return path / "pytorch_model.bin"


def as_accelerate_safetensors(path: Path, tensors: StateDict, *_: object) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    return path


def as_pipeline(path: Path, _: StateDict, vae: AutoencoderKL, vocoder: SpeechT5HifiGan) -> Path:
    return save_pipeline(path, vae, vocoder)


def as_old_pipeline(path: Path, _: StateDict, vae: AutoencoderKL, vocoder: SpeechT5HifiGan) -> Path:
    """Pickles, and attention as diffusers named it before 0.18."""
    save_pipeline(path, vae, vocoder)
    for half, new, old in (
        ("vae", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("vocoder", "model.safetensors", "pytorch_model.bin"),
    ):
        tensors = load_file(path / half / new)
        (path / half / new).unlink()
        torch.save({to_legacy_name(name): tensor for name, tensor in tensors.items()}, path / half / old)
    return path


FIRST_STAGE_FORMS = [
    as_audioldm,
    as_audioldm_folder,
    as_accelerate_pickle,
    as_accelerate_safetensors,
    as_pipeline,
    as_old_pipeline,
]


@pytest.mark.parametrize("form", FIRST_STAGE_FORMS)
def test_first_stage_forms(
    form: Callable[..., Path],
    folder: Path,
    tmp_path: Path,
    first_stage_tensors: StateDict,
    small_vae: AutoencoderKL,
    small_vocoder: SpeechT5HifiGan,
) -> None:
    (tmp_path / "stage").mkdir()
    path = form(tmp_path / "stage", first_stage_tensors, small_vae, small_vocoder)
    (folder / "audioldm-s-full.ckpt").unlink()
    checkpoint = open_checkpoint(folder, path)
    assert_same_tensors(checkpoint.modules.vae.state_dict(), small_vae.state_dict())
    assert_same_tensors(checkpoint.modules.vocoder.state_dict(), small_vocoder.state_dict())
    assert checkpoint.config.vae.scale_factor == (0.5 if "audioldm" in form.__name__ else 0.9227914)


@pytest.mark.parametrize(
    ("form", "place"),
    [
        (as_audioldm_folder, "."),
        (as_audioldm_folder, MODEL),
        (as_accelerate_pickle, MODEL),
        (as_accelerate_safetensors, MODEL),
        (as_pipeline, "."),
        (as_pipeline, MODEL),
        (as_pipeline, "audioldm-s-full"),
    ],
)
def test_first_stage_is_found_beside_the_checkpoint(
    form: Callable[..., Path],
    place: str,
    folder: Path,
    first_stage_tensors: StateDict,
    small_vae: AutoencoderKL,
    small_vocoder: SpeechT5HifiGan,
) -> None:
    (folder / "audioldm-s-full.ckpt").unlink()
    (folder / place).mkdir(exist_ok=True)
    form(folder / place, first_stage_tensors, small_vae, small_vocoder)
    assert open_checkpoint(folder / MODEL).config.vae.block_out_channels == SMALL_VAE.block_out_channels


def test_pipeline_configuration_is_honoured(folder: Path, tmp_path: Path) -> None:
    vae = VAEConfig(block_out_channels=(16, 32), layers_per_block=1, norm_groups=8, scale_factor=0.7)
    vocoder = VocoderConfig(
        initial_channels=16, upsample_rates=(8, 4), upsample_kernels=(16, 8), resblock_kernels=(3,),
        resblock_dilations=((1, 2),), leaky_slope=0.2,
    )  # fmt: skip
    save_pipeline(tmp_path / "stage", build_vae(vae), build_vocoder(vocoder))
    config = open_checkpoint(folder, tmp_path / "stage").config
    assert (config.vae, config.vocoder) == (vae, vocoder)
    assert (config.mel.hop, config.mel.bins, config.mel.sample_rate) == (32, 64, 16000)


def test_scale_factor_may_be_a_plain_number(folder: Path, first_stage_tensors: StateDict, tmp_path: Path) -> None:
    torch.save(first_stage_tensors | {"scale_factor": 0.25}, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(folder, tmp_path / "pytorch_model.bin").config.vae.scale_factor == 0.25


def test_no_first_stage(folder: Path) -> None:
    (folder / "audioldm-s-full.ckpt").unlink()
    message = refusal(folder)
    assert message.startswith(f"{folder / MODEL}: has no first stage")
    for part in ("--first-stage", "audioldm-s-full.ckpt", "cvssp/audioldm-s-full", "CC BY-NC-SA 4.0", "non-commercial"):
        assert part in message


def test_folder_without_first_stage(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(folder, tmp_path / "empty").startswith(f"{tmp_path / 'empty'}: holds no first stage")


def test_half_a_pipeline(folder: Path, tmp_path: Path) -> None:
    pipeline = save_pipeline(tmp_path / "stage", build_vae(SMALL_VAE), build_vocoder(SMALL_VOCODER))
    assert f"give the folder above, {pipeline}" in refusal(folder, pipeline / "vae")
    (pipeline / "vocoder" / "model.safetensors").unlink()
    assert refusal(folder, pipeline).startswith(f"{pipeline / 'vocoder'}: holds no weights")


def test_pipeline_without_configuration(folder: Path, tmp_path: Path) -> None:
    pipeline = save_pipeline(tmp_path / "stage", build_vae(SMALL_VAE), build_vocoder(SMALL_VOCODER))
    path = pipeline / "vae" / "config.json"
    path.unlink()
    assert refusal(folder, pipeline).startswith(f"{path}: cannot be read (No such file")


def test_a_model_in_the_first_stages_place(folder: Path) -> None:
    message = refusal(folder, folder / MODEL / "pytorch_model_2.bin")
    assert "is not a first stage" in message
    assert message.endswith("it looks like a VTA-LDM model")


def test_half_a_first_stage(folder: Path, tmp_path: Path, first_stage_tensors: StateDict) -> None:
    vae = {name: tensor for name, tensor in first_stage_tensors.items() if not name.startswith("vocoder.")}
    torch.save(vae, tmp_path / "vae.bin")
    assert "no vocoder.*; it looks like an autoencoder (VAE) alone" in refusal(folder, tmp_path / "vae.bin")
    torch.save(strip_prefix(first_stage_tensors, "vocoder."), tmp_path / "vocoder.bin")
    assert "it looks like a HiFi-GAN vocoder alone" in refusal(folder, tmp_path / "vocoder.bin")


def test_one_misshapen_tensor_of_the_first_stage(folder: Path, first_stage_tensors: StateDict) -> None:
    for name in ("encoder.down.1.block.0.conv1.weight", "decoder.conv_in.weight", "vocoder.conv_pre.bias"):
        changed = torch.zeros(3, *first_stage_tensors[name].shape[1:])
        (folder / "audioldm-s-full.ckpt").unlink()
        save_audioldm(folder / "audioldm-s-full.ckpt", first_stage_tensors | {name: changed})
        message = refusal(folder)
        assert f"; 1 of another shape or type: first_stage_model.{name} is {list(changed.shape)}, not " in message


def test_model_and_first_stage_that_disagree(folder: Path, tmp_path: Path) -> None:
    vae = build_vae(replace(SMALL_VAE, latent_channels=4))
    stage = save_pipeline(tmp_path / "stage", vae, build_vocoder(SMALL_VOCODER))
    assert "its UNet has 8 latent channels and the first stage 4" in refusal(folder, stage)


@pytest.mark.parametrize("value", [0.0, float("nan"), [1.0, 2.0]])
def test_scale_factor_that_is_none(folder: Path, first_stage_tensors: StateDict, value: object) -> None:
    path = folder / "audioldm-s-full.ckpt"
    path.unlink()
    torch.save(first_stage_tensors | {"scale_factor": torch.tensor(value)}, path)
    assert refusal(folder).startswith(f"{path}: its scale_factor is ")


def test_vocoder_of_normalised_mels(folder: Path, tmp_path: Path) -> None:
    stage = save_pipeline(tmp_path / "stage", build_vae(SMALL_VAE), build_vocoder(SMALL_VOCODER))
    path = stage / "vocoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalize_before": True}))
    assert refusal(folder, stage).startswith(f"{path}: normalize_before is true")
