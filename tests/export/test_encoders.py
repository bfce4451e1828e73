"""Every frame encoder through the exporter: the graph is the module, the runtime knows no encoder's name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import synth_encoders
import torch
from safetensors.torch import load_file, save_file

from export.bundling import Options, build
from export.checkpoint import open_checkpoint
from export.errors import CheckpointError
from tests.conftest import link_tree, relative_error
from tests.encoders import TINY, golden_frames, write_public
from train.config import from_dict, to_dict
from train.data.networks import open_encoder
from train.encoder import TOWERS, FrameEncoder, build_encoder, register
from train.encoder_config import ENCODERS, FrameEncoderConfig
from vta_rt.cli import main
from vta_rt.pipeline import Pipeline

SECONDS = 2.56
Make = Callable[[FrameEncoder], Path]


@pytest.fixture(scope="module")
def micro_bundle(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(micro_checkpoint, out=tmp_path_factory.mktemp("engines") / "micro", options=Options(seconds=SECONDS))


@pytest.fixture
def make_checkpoint(micro_checkpoint: Path, tmp_path: Path) -> Make:
    """The micro checkpoint with another frame encoder, as ``train.run`` leaves it."""

    def make(encoder: FrameEncoder) -> Path:
        folder = tmp_path / encoder.config.kind
        link_tree(micro_checkpoint, folder)
        tensors = load_file(folder / "model_2.safetensors")
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("unet.")}
        own = {f"vid_fea_extractor.{name}": tensor.contiguous() for name, tensor in encoder.state_dict().items()}
        values = json.loads((folder / "config.json").read_text())
        values["encoder"] = json.loads(
            json.dumps(to_dict(replace(from_dict(values), encoder=encoder.config))["encoder"])
        )
        del values["frame_rate"]  # the encoder's own
        for name in ("model_2.safetensors", "config.json"):
            (folder / name).unlink()  # they are links
        save_file(tensors | own, folder / "model_2.safetensors")
        (folder / "config.json").write_text(json.dumps(values))
        return folder

    return make


@pytest.fixture
def make_bundle(make_checkpoint: Make, micro_bundle: Path, tmp_path: Path) -> Make:
    """The same as a bundle of 2.56 s."""

    def make(encoder: FrameEncoder, precision: str = "fp32") -> Path:
        out = tmp_path / f"{encoder.config.kind}_bundle"
        if precision == "fp32":
            link_tree(micro_bundle, out)  # so that nothing but the encoder is built
        return build(make_checkpoint(encoder), out=out, options=Options(seconds=SECONDS, precision=precision))

    return make


@pytest.mark.parametrize("kind", TINY)
def test_tokens_of_a_bundle(kind: str, make_bundle: Make, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        encoder = open_encoder(write_public(kind, tmp_path / "public"), replace(TINY[kind], positions=True))
    pipeline = Pipeline(make_bundle(encoder))
    frames, config = pipeline.frames, encoder.config
    assert (frames.rate, frames.size, frames.encoder) == (config.rate, config.image_size, kind)
    assert (frames.fit, frames.kernel, frames.resize) == (config.fit, config.kernel, config.resize)
    full = pipeline.model.frame_count(frames)
    pictures = torch.cat([golden_frames(kind)] * 8)
    for count in (full, full // 2 + 1, 1):
        if kind == "vjepa2" and full > config.longest_clip >= count:
            continue  # a window of this bundle is always a full one
        tokens = pipeline.encode(pictures[:count].numpy())
        assert len(tokens) == frames.token_count(count)
        assert relative_error(tokens, encoder(pictures[:count])) < 1e-4
