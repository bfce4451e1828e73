"""Towers are taken from the files they come in, strictly; a hash tells networks apart, not files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from train.data.networks import open_device, open_encoder
from train.models.config import CLIPConfig, MotionConfig, SystemConfig, to_dict
from train.models.encoder import build_encoder
from train.models.weights import fingerprint
from train.settings import read_model
from vta_rt.errors import OptionError, VTAError

MOTION = MotionConfig((4, 8, 8), (1,), image_size=16, projection=8, tokens_dim=8)
CLIP = CLIPConfig(16, 1, 2, 32, 8, image_size=16, projection=8, tokens_dim=8)


@pytest.mark.parametrize("config", [MOTION, CLIP], ids=["motion", "clip"])
@pytest.mark.parametrize("prefix", ["", "own", "vid_fea_extractor."])
def test_a_tower_is_found_however_its_tensors_are_called(
    config: MotionConfig | CLIPConfig, prefix: str, tmp_path: Path
) -> None:
    encoder = build_encoder(config)
    module = encoder if prefix else encoder.tower
    name = "" if prefix == "own" else prefix
    tensors = {f"{name}{key}": tensor.clone() for key, tensor in module.state_dict().items()}
    if not prefix and config is CLIP:  # a whole one, as published
        tensors |= {name: torch.zeros(1) for name in ("text_model.a", "text_projection.weight", "logit_scale")}
    if prefix == "vid_fea_extractor.":
        tensors["unet.conv_in.weight"] = torch.zeros(1)
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
    opened = open_encoder(tmp_path / "weights.safetensors", config)
    assert fingerprint(opened.tower) == fingerprint(encoder.tower)
    assert not opened.training
    assert not any(parameter.requires_grad for parameter in opened.parameters())


def test_other_weights_have_another_hash() -> None:
    tower = build_encoder(MOTION).tower
    before = fingerprint(tower)
    assert fingerprint(tower) == before
    with torch.no_grad():
        next(iter(tower.parameters())).view(-1)[0] += 1e-6
    assert fingerprint(tower) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "missing",
            "its tensors are not those of the configured motion tower; 1 are missing, unexpected or of another",
        ),
        ("unexpected", "1 are missing, unexpected or of another shape, such as more"),
        ("misshapen", "1 are missing, unexpected or of another shape, such as when.gaze.bias"),
        ("nan", "holds weights that are not finite numbers, such as when.gaze.bias"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(change: str, message: str, tmp_path: Path) -> None:
    state = {f"motion.{key}": tensor.clone() for key, tensor in build_encoder(MOTION).tower.state_dict().items()}
    bias = state["motion.when.gaze.bias"]
    match change:
        case "missing":
            del state["motion.when.gaze.bias"]
        case "unexpected":
            state["motion.more"] = bias
        case "misshapen":
            state["motion.when.gaze.bias"] = bias[:-1]
        case "nan":
            bias[0] = torch.nan
    safetensors.torch.save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(OptionError, match=message):
        open_encoder(tmp_path / "w.safetensors", MOTION)


def test_files_that_are_no_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"no tensors")
    for name, message in (("w.safetensors", "is neither a torch file nor"), ("none.safetensors", "cannot be read")):
        with pytest.raises(VTAError, match=f"{name}: {message}"):
            open_encoder(tmp_path / name, MOTION)


def test_configurations_are_read(tmp_path: Path) -> None:
    config = SystemConfig(encoder=MOTION, frame_rate=12.5)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    assert read_model(path) == config
    for text, message in (
        ("{", "is not valid JSON"),
        ("[]", "Expected `object`, got `array`"),
        ('{"a": 1}', "unknown a"),
    ):
        path.write_text(text)
        with pytest.raises(OptionError, match=message):
            read_model(path)
    with pytest.raises(OptionError, match=r"none\.json: cannot be read"):
        read_model(tmp_path / "none.json")


def test_the_processor_is_always_there() -> None:
    assert open_device("cpu").type == "cpu"
    assert open_device().type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "", "cpu:0:1"])
def test_others_are_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError, match=rf"^device '{name}' cannot be used here"):
        open_device(name)
