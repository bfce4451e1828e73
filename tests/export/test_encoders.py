"""Every frame encoder through the exporter: the graph is the module, and the runtime knows no encoder's name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import synth_encoders
import torch
from safetensors.torch import load_file, save_file

from export.bundling import Options, build, open_checkpoint
from export.stages import visual_encoder
from tests.conftest import link_tree, relative_error
from tests.encoders import TINY, golden_frames
from tests.export.layouts import StateDict, change_summary, open_exported, refusal, replace_weights, write_config
from tests.vta_rt.conftest import make_clip
from train.models.encoder import TOWERS, build_encoder, register
from train.models.encoder_config import ENCODERS, FrameEncoderConfig
from vta_rt.backends.base import Lane
from vta_rt.cli import main
from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.pipeline import Pipeline
from vta_rt.stages import Stages


@pytest.mark.parametrize("kind", ["imagebind", "languagebind", "cavp", "vivit", "vjepa2"])
def test_a_graph_takes_videos_of_any_length(kind: str, tmp_path: Path) -> None:
    """What the module gives, with positions: windows, repeats of the last frame and dropped tokens are the same."""
    torch.manual_seed(0)
    config = replace(TINY[kind], positions=True)
    if kind != "cavp":  # a ResNet, of a fixed depth
        config = replace(config, layers=1)
    encoder = build_encoder(config).eval()
    model = ModelConfig(3.4, token_width=config.tokens_dim, positions=True)
    frames = FrameConfig(config.rate, config.image_size, clip_stride=config.clip_stride)
    full = model.frame_count(frames)
    frames = replace(frames, clip_length=config.multiple(full))
    stage = visual_encoder(encoder, model, frames)
    session = open_exported(stage, tmp_path)
    stages = Stages(lambda _: session, Lane(), model, frames)
    video = torch.cat([golden_frames(kind)] * 6)
    for count in (full, full - 1, 1):
        if kind == "vjepa2" and count <= config.longest_clip:
            continue  # a window of these 3.4 s is a full one
        tokens = stages.encode(video[:count].numpy())
        assert len(tokens) == frames.token_count(count)
        assert relative_error(tokens, encoder(video[:count]).detach()) < 1e-4


@pytest.fixture
def registry() -> Iterator[None]:
    """What a test registers is forgotten."""
    known = dict(ENCODERS), dict(TOWERS)
    yield
    for names, before in zip((ENCODERS, TOWERS), known, strict=True):
        for name in names.keys() - before.keys():
            del names[name]


def test_a_made_up_encoder(
    registry: None,
    micro_checkpoint: Path,
    bundle_copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One dataclass and one module: then it is exported, sampled for, shown and heard."""

    @dataclass(frozen=True)
    class BrightnessConfig(FrameEncoderConfig):
        rate = 12.5
        kind: str = field(default="brightness", kw_only=True)
        image_size: int = field(default=16, kw_only=True)
        projection: int = field(default=6, kw_only=True)
        fit: str = field(default="squash", kw_only=True)
        kernel: str = field(default="bilinear", kw_only=True)
        clip_length: int = field(default=4, kw_only=True)
        clip_stride: int = field(default=2, kw_only=True)

    class Brightness(torch.nn.Module):
        """Clips [B, 4, 3, H, W] -> the colours of each pair of frames, [B, 2, 6]."""

        def __init__(self, config: BrightnessConfig) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.full((config.projection,), 3.0))

        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return clips.mean((3, 4)).unflatten(1, (-1, 2)).flatten(2) * self.scale

    register("brightness", BrightnessConfig, Brightness)
    torch.manual_seed(0)
    encoder = build_encoder(BrightnessConfig(tokens_dim=24, positions=True))
    ckpt = tmp_path / "ckpt"
    link_tree(micro_checkpoint, ckpt)
    tensors = load_file(ckpt / "model_2.safetensors")
    config = json.loads((ckpt / "config.json").read_text())
    for name in ("model_2.safetensors", "config.json"):
        (ckpt / name).unlink()  # they are links
    own = {f"vid_fea_extractor.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_file({n: t for n, t in tensors.items() if n.startswith("unet.")} | own, ckpt / "model_2.safetensors")
    config = config | {"encoder": {"kind": "brightness", "positions": True, "tokens_dim": 24}, "frame_rate": 12.5}
    (ckpt / "config.json").write_text(json.dumps(config))
    bundle = build(ckpt, out=bundle_copy, options=Options(seconds=0.64))  # only the encoder is built

    pipeline = Pipeline(bundle)
    assert (pipeline.frames.rate, pipeline.frames.tokens_per_second, pipeline.frames.clip_length) == (12.5, 6.25, 4)
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    assert pipeline.encode(images).shape == (4, 24)
    assert relative_error(pipeline.encode(images), encoder(torch.from_numpy(images)).detach()) < 1e-4
    video = make_clip(tmp_path / "clip.mp4", seconds=0.6)
    assert pipeline.generate(video, steps=2).duration == pytest.approx(0.6, abs=0.01)
    assert main(["info", str(bundle)]) == 0
    assert "encoder      brightness, 6.25 tokens a second; 4 a pass" in capsys.readouterr().out


PREFIXES = {
    "imagebind": "ib_model",
    "languagebind": "lb_model",
    "cavp": "cavp",
    "vivit": "vivit",
    "vjepa2": "vjepa_model",
}
FLAGS = {"imagebind": "ib", "languagebind": "lb", "vjepa2": "jepa"}


@pytest.mark.parametrize("kind", PREFIXES)
def test_published_variants_have_their_encoder_beside_the_unet(
    folder: Path, model_tensors: StateDict, kind: str
) -> None:
    """As attributes of the whole model, with all parts of the public file, under the public names."""
    config = TINY[kind]
    public = synth_encoders.state_dict(kind, "tiny")
    others = {name: torch.zeros(shape) for name, shape in synth_encoders.OTHER_PARTS[kind].items()}
    linear = {"linear_layer.weight": torch.ones(64, config.projection), "linear_layer.bias": torch.ones(64)}
    encoder = {f"{PREFIXES[kind]}.{name}": tensor for name, tensor in (public | others).items()}
    replace_weights(folder, {n: t for n, t in model_tensors.items() if n.startswith("unet.")} | encoder | linear)
    sizes = ("width", "layers", "heads", "intermediate", "image_size", "resize", "clip_length", "longest_clip")
    write_config(folder, {"encoder": {size: getattr(config, size) for size in sizes if hasattr(config, size)}})
    if kind in FLAGS:
        change_summary(folder, **{FLAGS[kind]: True})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.encoder == replace(config, tokens_dim=64)
    assert checkpoint.config.frame_rate == config.rate
    opened = checkpoint.modules.encoder
    state = {name: tensor for name, tensor in public.items() if TOWERS[kind].rename(name)}
    assert len(opened.tower.state_dict()) == len(state)
    twin = build_encoder(config)
    twin.tower.load_state_dict({TOWERS[kind].rename(name): tensor for name, tensor in state.items()})
    frames = golden_frames(kind)[:2]
    assert torch.equal(opened.embed(frames), twin.eval().embed(frames))
    assert bool((opened.linear_layer.weight == 1).all())


def test_a_variant_whose_encoder_is_missing(folder: Path) -> None:
    path = change_summary(folder, jepa=True)
    assert refusal(folder).startswith(f"{path}: says by 'jepa' that frames go through vjepa2, but pytorch_model_2.bin")
