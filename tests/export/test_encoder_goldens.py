"""What the public implementations of the frame encoders compute, reproduced by exported graphs at half precision.

At fp32 ``test_encoders`` compares graphs with modules, and ``tests/train/models/test_towers`` modules with the goldens.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import synth_encoders
import torch
from torch import Tensor, nn

from export.stages import Stage
from tests.conftest import relative_error
from tests.encoders import TINY, golden_frames, goldens, thinned, write_public
from tests.export.layouts import open_exported
from train.data.networks import open_encoder
from train.models.encoder import FrameEncoder
from train.models.encoder_config import CAVPConfig
from vta_rt.manifest import Precision

SHARED = Path(__file__).parents[3] / "shared" / "encoders"
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2}


class Outputs(nn.Module):
    """frames [T, H, W, 3] uint8 -> all that the public implementation computes, float32; ``window`` frames a clip."""

    def __init__(self, encoder: FrameEncoder, window: int) -> None:
        super().__init__()
        self.encoder, self.window = encoder, window

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.float() for value in self.named(frames).values())

    def named(self, frames: Tensor) -> dict[str, Tensor]:
        return self.encoder.tower.outputs(self.encoder.normalize(frames).unflatten(0, (-1, self.window)))


def run_exported(encoder: FrameEncoder, window: int, frames: Tensor, precision: Precision, folder: Path) -> dict:
    """The outputs of the encoder's graph, which keeps the sizes of ``frames``."""
    module = Outputs(encoder, window)
    with torch.no_grad():
        names = tuple(module.named(frames))
    module.to({"fp32": torch.float32, "fp16": torch.float16}[precision])
    stage = Stage("encoder", module, {"frames": frames}, names, {})
    return open_exported(stage, folder, precision).run({"frames": frames.numpy()})


@pytest.mark.parametrize("kind", [*TINY, "vjepa2, a longer clip"])
def test_public_outputs(kind: str, tmp_path: Path) -> None:
    kind, _, longer = kind.partition(",")
    with warnings.catch_warnings(action="ignore"):
        encoder = open_encoder(write_public(kind, tmp_path / kind), TINY[kind])
    frames = golden_frames(kind)
    window = {"cavp": 8, "vjepa2": 16 if longer else 8}.get(kind, encoder.config.clip_length)
    found = run_exported(encoder, window, frames[: window if kind == "vjepa2" else None], "fp16", tmp_path)
    expected = {name: array for name, array in goldens(kind).items() if name != "frames_u8_low"}
    long = expected.pop("last_hidden_state_long", None)
    expected = {"last_hidden_state": long} if longer else expected
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert relative_error(thinned(name, value), expected[name]) < TOLERANCES["fp16"], name


@pytest.mark.skipif(not SHARED.is_dir(), reason="reference outputs at full size lie outside of the repository")
@pytest.mark.parametrize("precision", TOLERANCES)
def test_cavp_at_full_size(precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth_encoders, "HERE", SHARED)  # its table at full size lies there
    path = synth_encoders.write("cavp", "full", tmp_path)
    encoder = open_encoder(path, CAVPConfig(image_size=64))
    reference = np.load(SHARED / "goldens" / "cavp.npz")
    low = synth_encoders.enlarge(reference["frames_u8_low"], 64)
    frames = torch.from_numpy(low).flatten(0, -4).permute(0, 2, 3, 1).contiguous()
    expected = {name.removeprefix("full_"): reference[name] for name in reference if name.startswith("full_")}
    if precision == "fp32":
        with torch.no_grad():
            direct = Outputs(encoder, len(frames)).named(frames)
        assert direct.keys() == expected.keys()
        for name, value in direct.items():
            assert relative_error(value.numpy(), expected[name]) < 1e-5, name
    found = run_exported(encoder, len(frames), frames, precision, tmp_path)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert relative_error(value, expected[name]) < TOLERANCES[precision], name
