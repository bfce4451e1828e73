"""A checkpoint to open and to damage: the tiny model with a narrow first stage."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch.onnx._internal.exporter import _registration
from transformers import SpeechT5HifiGan

from tests.export.layouts import MODEL, SMALL_VAE, SMALL_VOCODER, StateDict, save_audioldm
from train.models.vae import build_vae, to_compvis_name
from train.models.vocoder import build_vocoder, to_hifigan_name


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """Each export has onnxscript parse the sources of all its operators again, which are the same in a whole run."""
    apis = _registration.onnxscript_apis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apis, "get_torchlib_ops", functools.cache(apis.get_torchlib_ops))
        yield


@pytest.fixture(scope="session")
def model_tensors(tiny_checkpoint: Path) -> StateDict:
    return torch.load(tiny_checkpoint / MODEL / "pytorch_model_2.bin", weights_only=True)


@pytest.fixture(scope="session")
def small_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return build_vae(SMALL_VAE)


@pytest.fixture(scope="session")
def small_vocoder() -> SpeechT5HifiGan:
    torch.manual_seed(1)
    return build_vocoder(SMALL_VOCODER)


@pytest.fixture(scope="session")
def first_stage_tensors(small_vae: AutoencoderKL, small_vocoder: SpeechT5HifiGan) -> StateDict:
    """A narrow first stage under the names of AudioLDM, without their prefix."""
    tensors = {to_compvis_name(name, levels=3): value for name, value in small_vae.state_dict().items()}
    for name, value in tensors.items():
        if "attn_1" in name and value.ndim == 2:
            tensors[name] = value[:, :, None, None]  # there, attention is made of 1x1 convolutions
    return tensors | {f"vocoder.{to_hifigan_name(name)}": value for name, value in small_vocoder.state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path, first_stage_tensors: StateDict) -> Path:
    """A published layout with a narrow first stage. Files are links: replace them, never write into them."""
    model = tmp_path / "ckpt" / MODEL
    model.mkdir(parents=True)
    for name in ("pytorch_model_2.bin", "summary.jsonl"):
        os.link(tiny_checkpoint / MODEL / name, model / name)
    save_audioldm(model.parent / "audioldm-s-full.ckpt", first_stage_tensors)
    return model.parent
