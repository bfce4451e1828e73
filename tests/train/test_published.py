from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from export.bundling import open_checkpoint
from train.models.config import MotionConfig, from_dict, to_dict
from train.models.weights import CheckpointError
from train.published import training_arguments, write_published
from train.settings import read_settings

UPSTREAM = Path(__file__).parents[1] / "upstream"


@pytest.fixture
def checkpoint(micro_checkpoint: Path, tmp_path: Path) -> Path:
    """As a run writes it."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(micro_checkpoint, folder)
    (folder / "training.json").write_text('{"settings": {"optimizer": {"learning_rate": 0.001}}}')
    return folder


def test_published_layout(checkpoint: Path, micro_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "published"
    assert write_published(checkpoint, out) == ["pytorch_model_2.bin", "summary.jsonl", "config.json"]
    first, second = (out / "summary.jsonl").read_text().split("\n")[:2]
    assert json.loads(first)["learning_rate"] == 0.001
    assert json.loads(first)["embedding_dim"] == 24
    assert second == ""
    weights = torch.load(out / "pytorch_model_2.bin", weights_only=True)
    expected = load_file(checkpoint / "model_2.safetensors")
    assert weights.keys() == expected.keys()
    assert all(weights[name].equal(expected[name]) for name in weights)
    assert open_checkpoint(out, micro_checkpoint).config == open_checkpoint(micro_checkpoint).config


def test_arguments_are_those_of_the_published_training() -> None:
    """Those that a run has; the published ones also name paths and optimizer options that nothing reads."""
    settings = read_settings("published")
    published = json.loads((UPSTREAM / "summary.json").read_text())
    arguments = training_arguments(settings, from_dict({}))
    assert arguments.keys() - published.keys() == {"embedding_dim"}
    differing = {name: value for name, value in arguments.items() if name in published and published[name] != value}
    assert differing == {"seed": 0}


def change(folder: Path, **changes: Any) -> None:
    config = from_dict(json.loads((folder / "config.json").read_text()))
    (folder / "config.json").write_text(json.dumps(to_dict(replace(config, **changes))))


def test_models_that_the_layout_cannot_express(checkpoint: Path, tmp_path: Path) -> None:
    config = from_dict(json.loads((checkpoint / "config.json").read_text()))
    for changes, message in (
        ({"encoder": MotionConfig()}, "its frame encoder is motion"),
        ({"unet": replace(config.unet, aligned_channels=8)}, "it has a time-aligned path"),
        ({"encoder": config.encoder, "unet": replace(config.unet, attention=(True, True))}, "it says level by level"),
    ):
        change(checkpoint, **changes)
        with pytest.raises(CheckpointError, match=message):
            write_published(checkpoint, tmp_path / "out")
        change(checkpoint, encoder=config.encoder, unet=config.unet)
    assert not (tmp_path / "out").exists()
