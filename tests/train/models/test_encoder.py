from dataclasses import replace

import numpy as np
import pytest
import torch

from export.bundling import Checkpoint
from tests.conftest import relative_error
from train.models.encoder import FrameEncoder, batch_tokens, build_encoder, build_positions
from vta_rt.errors import OptionError

TOLERANCE = 1e-4
Goldens = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> FrameEncoder:
    return checkpoint.modules.encoder


@pytest.fixture(scope="module")
def positioned(checkpoint: Checkpoint, encoder: FrameEncoder) -> FrameEncoder:
    """The same weights with positions on."""
    twin = build_encoder(replace(checkpoint.config.encoder, positions=True)).eval()
    twin.load_state_dict(encoder.state_dict())
    return twin


@pytest.fixture(scope="module")
def frames(golden_frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(golden_frames)


def test_tokens(encoder: FrameEncoder, frames: torch.Tensor, goldens: Goldens) -> None:
    assert relative_error(encoder(frames), goldens["cond_base"]) < TOLERANCE


def test_tokens_with_positions(positioned: FrameEncoder, frames: torch.Tensor, goldens: Goldens) -> None:
    assert relative_error(positioned(frames), goldens["cond_pe"]) < TOLERANCE


def test_padded_batch(encoder: FrameEncoder, frames: torch.Tensor, goldens: Goldens) -> None:
    tokens, mask = batch_tokens([encoder(frames), encoder(frames[:12])])
    assert relative_error(tokens, goldens["cond_batch"]) < TOLERANCE
    np.testing.assert_array_equal(mask, goldens["cond_batch_mask"])


def test_order_shows_only_with_positions(encoder: FrameEncoder, positioned: FrameEncoder, frames: torch.Tensor) -> None:
    torch.testing.assert_close(encoder(frames.flip(0)).flip(0), encoder(frames))
    assert relative_error(positioned(frames.flip(0)).flip(0), positioned(frames)) > 0.01


def test_more_frames_than_positions_are_refused(positioned: FrameEncoder, frames: torch.Tensor) -> None:
    with pytest.raises(OptionError, match=r"^40 tokens, .* for 30$"):
        positioned(torch.cat([frames, frames]))


def test_buffers_are_not_in_the_state_dict_and_can_be_computed_again(positioned: FrameEncoder) -> None:
    assert not [name for name in positioned.state_dict() if "position" in name and "embedding" not in name]
    with torch.device("meta"):
        twin = build_encoder(positioned.config)
    twin.load_state_dict(positioned.state_dict(), assign=True)
    twin.reset_buffers()
    for (name, buffer), (_, expected) in zip(twin.named_buffers(), positioned.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), name


@pytest.mark.parametrize("positions", [False, True])
def test_exports_with_an_open_number_of_frames(
    encoder: FrameEncoder, positioned: FrameEncoder, frames: torch.Tensor, positions: bool
) -> None:
    module = positioned if positions else encoder
    count = torch.export.Dim("frames", min=1, max=30 if positions else 64)
    program = torch.export.export(module, (frames[:5],), dynamic_shapes=({0: count},)).module()
    for length in (1, 12, 20):
        torch.testing.assert_close(program(frames[:length]), module(frames[:length]))


def test_positions_follow_the_formula() -> None:
    table = build_positions(30, 512)
    assert table.shape == (30, 512)
    assert table[7, 20].item() == pytest.approx(np.sin(7 / 10000 ** (20 / 512)), abs=1e-6)
    assert table[7, 21].item() == pytest.approx(np.cos(7 / 10000 ** (20 / 512)), abs=1e-6)
