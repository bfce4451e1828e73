"""A configuration comes from shapes and the training summary, and config.json wins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.bundling import open_checkpoint
from export.checkpoint import CheckpointFiles, read_settings
from export.configure import configure
from export.first_stage import FirstStageFiles
from tests.export.layouts import (
    MODEL,
    SMALL_VAE,
    SMALL_VOCODER,
    StateDict,
    change_summary,
    refusal,
    replace_weights,
    write_config,
)
from train.models.config import SystemConfig, TextEncoderConfig, UNetConfig, to_dict
from vta_rt.schedule import NoiseSchedule


def test_configuration_comes_from_shapes_and_summary(folder: Path) -> None:
    change_summary(folder, pe=True)
    config = open_checkpoint(folder).config
    assert config == SystemConfig(
        encoder=replace(
            config.encoder, width=64, layers=2, heads=4, intermediate=128, patch=32, image_size=224, projection=512,
            tokens_dim=64, positions=True, activation="quick_gelu",
        ),
        text=TextEncoderConfig(width=64, layers=2, heads=4, intermediate=128, projection=512, vocabulary=49408, context=77),
        unet=UNetConfig((32, 32, 64, 64), (2, 2, 4, 4), cross_attention_dim=64, norm_groups=8),
        vae=replace(SMALL_VAE, scale_factor=0.5),
        vocoder=SMALL_VOCODER,
        licence=config.licence,
    )  # fmt: skip


def test_full_size_configuration(tmp_path: Path) -> None:
    """Shapes alone make the configuration, so the full-size table stands for the 4 GB file."""
    upstream = Path(__file__).parents[1] / "upstream"
    shapes = json.loads((upstream / "model_full.json").read_text())
    tensors = {name: torch.empty(shape, device="meta") for name, (shape, _) in shapes.items()}
    (tmp_path / "summary.jsonl").write_text((upstream / "summary_full.json").read_text())
    weights = tmp_path / "pytorch_model_2.bin"
    files = CheckpointFiles("full", weights, tensors, read_settings(tmp_path), FirstStageFiles({}, {}, ()))
    config = configure(files)
    assert config == SystemConfig(text=TextEncoderConfig(), licence=config.licence)


def test_config_json_replaces_the_summary(folder: Path) -> None:
    config = open_checkpoint(folder).config
    write_config(folder, to_dict(replace(config, frame_rate=4.0, licence="CC0")))
    (folder / MODEL / "summary.jsonl").unlink()
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config == replace(config, frame_rate=4.0, licence="CC0")
    assert set(checkpoint.files.settings.files | {checkpoint.files.weights.name: 0}) == {
        "pytorch_model_2.bin",
        "config.json",
    }


def test_config_json_wins_value_by_value(folder: Path) -> None:
    config = open_checkpoint(folder).config
    write_config(folder, {"encoder": {"positions": True}, "unet": {"attention_heads": [1, 1, 2, 2]}})
    assert open_checkpoint(folder).config == replace(
        config,
        encoder=replace(config.encoder, positions=True),
        unet=replace(config.unet, attention_heads=(1, 1, 2, 2)),
    )


def test_noise_schedule_fits_the_runtime(folder: Path) -> None:
    write_config(folder, {"noise": {"beta_end": 0.02}})
    assert open_checkpoint(folder).config.noise == NoiseSchedule(beta_end=0.02)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"unet": {"widths": 3}}, "unknown unet.widths"),
        ({"encoder": {"heads": "four"}}, "encoder.heads"),
        ({"architectures": ["CLIPModel"]}, "unknown architectures"),
    ],
)
def test_config_json_of_another_kind(folder: Path, values: dict[str, object], named: str) -> None:
    path = write_config(folder, values)
    message = refusal(folder)
    assert message.startswith(f"{path}: ")
    assert named in message


def test_configuration_that_cannot_be_built(folder: Path) -> None:
    write_config(folder, {"unet": {"norm_groups": 7}})
    assert "no unet can be built with UNetConfig(" in refusal(folder)


def test_no_summary(folder: Path) -> None:
    (folder / MODEL / "summary.jsonl").unlink()
    assert refusal(folder).startswith(f"{folder / MODEL}: has no summary.jsonl")


@pytest.mark.parametrize("text", ["", "epoch 1", "[1, 2]"])
def test_summary_that_is_none(folder: Path, text: str) -> None:
    path = folder / MODEL / "summary.jsonl"
    path.unlink()
    path.write_text(text)
    assert refusal(folder).startswith(f"{path}: ")


def test_widths_of_no_published_model(folder: Path, model_tensors: StateDict) -> None:
    """Heads and groups cannot be seen, so they must be given; then the model opens."""
    name = "unet.down_blocks.0.resnets."
    wider = {key: torch.zeros(40, *t.shape[1:]) if key.startswith(name) else t for key, t in model_tensors.items()}
    replace_weights(folder, wider)
    change_summary(folder, fea_encoder_name="my-clip")
    message = refusal(folder)
    for unknown in ("encoder.heads", "text.heads", "unet.attention_heads", "unet.norm_groups"):
        assert unknown in message
    assert message.endswith(f"give them in {folder / MODEL / 'config.json'}")
    replace_weights(folder, model_tensors)
    write_config(folder, {"encoder": {"heads": 4}, "text": {"heads": 2}})
    config = open_checkpoint(folder).config
    assert config.text is not None
    assert (config.encoder.heads, config.text.heads) == (4, 2)


def test_summary_and_tensors_that_disagree(folder: Path) -> None:
    path = change_summary(folder, embedding_dim=2048)
    message = refusal(folder)
    assert message.startswith(f"{path}: embedding_dim is 2048, but the UNet in pytorch_model_2.bin")
    assert "64 wide" in message


def test_summary_of_another_encoder(folder: Path) -> None:
    change_summary(folder, ib=True)
    assert "says by 'ib' that frames go through imagebind, but pytorch_model_2.bin holds clip" in refusal(folder)
