"""Checkpoints in the layouts they are published in, written small, and how to damage them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SpeechT5HifiGan

from export.bundling import open_checkpoint
from export.onnx_file import WeightsFile, export_stage
from export.stages import Stage
from train.models.config import VAEConfig, VocoderConfig
from train.models.weights import CheckpointError
from vta_rt.backends.onnxruntime import OnnxRuntimeSession
from vta_rt.errors import VTAError
from vta_rt.manifest import GraphRecord, Precision
from vta_rt.verification import record_file

StateDict = dict[str, Tensor]
MODEL = "vta-ldm-clip4clip-v-large"
SMALL_VAE = VAEConfig(block_out_channels=(32, 64, 64))
SMALL_VOCODER = VocoderConfig(initial_channels=64)
UNET_CONV = "unet.down_blocks.1.resnets.0.conv1.weight"


def save_audioldm(path: Path, tensors: StateDict) -> None:
    named = {f"first_stage_model.{name}": value for name, value in tensors.items()}
    others = {"model.diffusion_model.out.2.bias": torch.zeros(8), "first_stage_model.loss.logvar": torch.zeros(())}
    torch.save({"state_dict": named | others | {"scale_factor": torch.tensor(0.5)}, "epoch": 3}, path)


def replace_weights(folder: Path, tensors: object) -> Path:
    """The model's weights file with other content."""
    path = folder / MODEL / "pytorch_model_2.bin"
    path.unlink()
    torch.save(tensors, path)
    return path


def change_summary(folder: Path, **values: object) -> Path:
    path = folder / MODEL / "summary.jsonl"
    summary = json.loads(path.read_text()) | values
    path.unlink()
    path.write_text(json.dumps(summary) + "\n" + json.dumps({"epoch": 1, "loss": 0.5}) + "\n")
    return path


def write_config(folder: Path, values: dict[str, object]) -> Path:
    path = folder / MODEL / "config.json"
    path.write_text(json.dumps(values))
    return path


def save_pipeline(folder: Path, vae: AutoencoderKL, vocoder: SpeechT5HifiGan) -> Path:
    """The first stage as diffusers and transformers save it."""
    vae.save_pretrained(folder / "vae")
    vocoder.save_pretrained(folder / "vocoder")
    weights = folder / "vocoder" / "model.safetensors"
    save_file(load_file(weights) | {"mean": torch.zeros(64), "scale": torch.ones(64)}, weights, {"format": "pt"})
    return folder


def open_exported(stage: Stage, folder: Path, precision: Precision = "fp32") -> OnnxRuntimeSession:
    """The stage's graph, exported to ``folder`` and opened."""
    with WeightsFile(folder / "weights") as weights:
        inputs, outputs = export_stage(stage, folder / "graph.onnx", weights)
    files = record_file(folder / "graph.onnx"), record_file(folder / "weights")
    record = GraphRecord(files[0], (files[1],), tuple(inputs), tuple(outputs), precision)
    return OnnxRuntimeSession(stage.name, record, folder / "graph.onnx")


def refusal(ckpt: Path | str, first_stage: Path | str | None = None) -> str:
    """The message with which a checkpoint is refused, which is one line."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(ckpt, first_stage)
    message = str(caught.value)
    assert isinstance(caught.value, VTAError)
    assert len(message.splitlines()) == 1
    return message


def assert_same_tensors(found: StateDict, expected: StateDict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.float()), name
