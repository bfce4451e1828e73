"""The published implementation's outputs, reproduced by the exported graphs under ``vta_rt`` alone, at fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.bundling import Options, build
from tests.conftest import link_tree, relative_error
from vta_rt.audio import Audio
from vta_rt.pipeline import Pipeline, pad_tokens

SINGLE_STAGE, LOOP = 1e-4, 1e-3
Goldens = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def pipeline(bundle_10s: Path) -> Pipeline:
    return Pipeline(bundle_10s)


def test_tokens(pipeline: Pipeline, goldens: Goldens, golden_frames: np.ndarray) -> None:
    assert relative_error(pipeline.encode(golden_frames), goldens["cond_base"]) < SINGLE_STAGE


@pytest.fixture(scope="module")
def positioned(
    checkpoint_with_positions: Path, bundle_short: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    out = tmp_path_factory.mktemp("engines") / "positions"
    link_tree(bundle_short, out)  # so that only the encoder is built
    return Pipeline(build(checkpoint_with_positions, out=out, options=Options(seconds=0.64)))


def test_tokens_with_positions(positioned: Pipeline, goldens: Goldens, golden_frames: np.ndarray) -> None:
    tokens = positioned.encode(golden_frames)
    assert relative_error(tokens, goldens["cond_pe"]) < SINGLE_STAGE
    shuffled = positioned.encode(golden_frames[::-1].copy())[::-1]
    assert relative_error(shuffled, tokens) > 0.01  # positions tell the order


def test_order_of_frames_is_heard_only_with_positions(
    bundle_short: Path, positioned: Pipeline, golden_frames: np.ndarray
) -> None:
    order = np.random.default_rng(0).permutation(len(golden_frames))

    def sound(pipeline: Pipeline, frames: np.ndarray) -> np.ndarray:
        latents = pipeline.denoise(pipeline.encode(frames), steps=3, guidance=2.0, seed=1)
        return pipeline.vocode(pipeline.decode(latents))

    blind = Pipeline(bundle_short)
    heard = sound(blind, golden_frames)
    # The same but for the order in which attention adds up.
    assert relative_error(sound(blind, golden_frames[order]), heard) < 1e-4
    told = sound(positioned, golden_frames)
    assert relative_error(sound(positioned, golden_frames[order]), told) > 10 * 1e-4


def test_tokens_without_positions_do_not_know_their_order(pipeline: Pipeline, golden_frames: np.ndarray) -> None:
    tokens = pipeline.encode(golden_frames)
    np.testing.assert_allclose(pipeline.encode(golden_frames[::-1].copy())[::-1], tokens, atol=1e-5)


def test_padded_batch(pipeline: Pipeline, goldens: Goldens, golden_frames: np.ndarray) -> None:
    lengths = goldens["cond_batch_mask"].sum(axis=1)
    tokens, mask = pad_tokens([pipeline.encode(golden_frames[:length]) for length in lengths])
    np.testing.assert_array_equal(mask, goldens["cond_batch_mask"])
    assert relative_error(tokens, goldens["cond_batch"]) < SINGLE_STAGE


def test_unet(bundle_10s: Path, tiny_checkpoint: Path, goldens: Goldens, tmp_path: Path) -> None:
    """The network's own output is what a step with p = 0 and q = 1 calls the data prediction."""
    link_tree(bundle_10s, tmp_path / "bundle")  # so that only the denoiser is built
    bundle = build(tiny_checkpoint, out=tmp_path / "bundle", options=Options(seconds=2.56))
    session = Pipeline(bundle).session("denoiser_unguided")
    for clip in range(2):  # the graph takes one at a time
        latents = goldens["unet_x"][clip : clip + 1]
        outputs = session.run(
            {
                "latents": latents,
                "previous": np.zeros_like(latents),
                "noise": np.zeros_like(latents),
                "tokens": goldens["cond_batch"][clip : clip + 1],
                "token_mask": goldens["cond_batch_mask"][clip : clip + 1],
                "timestep": goldens["unet_t"][clip : clip + 1].astype(np.float32),
                "step": np.array([0, 1, 0, 1, 0, 0, 1, 0], np.float32),
            }
        )
        assert relative_error(outputs["denoised"], goldens["unet_y"][clip : clip + 1]) < SINGLE_STAGE
        np.testing.assert_array_equal(outputs["latents_next"], outputs["denoised"])


def test_ten_ddpm_steps(pipeline: Pipeline, goldens: Goldens) -> None:
    latents = pipeline.denoise(
        goldens["cond_base"],
        steps=10,
        solver="ddpm",
        guidance=float(goldens["loop_guidance"]),
        initial=goldens["loop_z0"],
        step_noise=goldens["loop_noise"],
    )
    assert relative_error(latents, goldens["loop_out"]) < LOOP


def test_decoder(pipeline: Pipeline, goldens: Goldens) -> None:
    assert relative_error(pipeline.decode(goldens["vae_z"]), goldens["vae_decoded"]) < SINGLE_STAGE


def test_vocoder(pipeline: Pipeline, goldens: Goldens) -> None:
    assert relative_error(pipeline.vocode(goldens["vocoder_mel"]), goldens["vocoder_wave"]) < SINGLE_STAGE
    samples = Audio(pipeline.vocode(goldens["vae_decoded"])[0], 16000).to_int16()
    assert relative_error(samples, goldens["decoded_int16"][0]) < SINGLE_STAGE
