"""The published implementation's outputs, reproduced by the exported graphs under ``vta_rt`` alone, at fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.bundling import build, open_checkpoint
from export.configure import configure_runtime
from export.stages import denoiser
from tests.conftest import Share, link_tree, relative_error
from tests.export.layouts import change_summary, open_exported
from vta_rt.audio import Audio
from vta_rt.pipeline import Pipeline, pad_tokens

SINGLE_STAGE, LOOP = 1e-4, 1e-3
Goldens = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, share: Share) -> Path:
    """With windows of 10.24 s, as published."""
    return share("bundle-tiny", lambda out: build(tiny_checkpoint, out=out))


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> Pipeline:
    return Pipeline(bundle)


def test_tokens(pipeline: Pipeline, goldens: Goldens, golden_frames: np.ndarray) -> None:
    assert relative_error(pipeline.encode(golden_frames), goldens["cond_base"]) < SINGLE_STAGE


@pytest.fixture(scope="module")
def positioned(tiny_checkpoint: Path, bundle: Path, share: Share) -> Pipeline:
    """The same weights, by their summary trained with positions added to the frames' embeddings."""

    def export(folder: Path) -> None:
        link_tree(tiny_checkpoint, folder / "ckpt")
        change_summary(folder / "ckpt", pe=True)
        link_tree(bundle, folder / "bundle")  # so that only the encoder is built
        build(folder / "ckpt", out=folder / "bundle")

    return Pipeline(share("positions", export) / "bundle")


def test_tokens_with_positions(positioned: Pipeline, goldens: Goldens, golden_frames: np.ndarray) -> None:
    tokens = positioned.encode(golden_frames)
    assert relative_error(tokens, goldens["cond_pe"]) < SINGLE_STAGE
    shuffled = positioned.encode(golden_frames[::-1].copy())[::-1]
    assert relative_error(shuffled, tokens) > 0.01  # positions tell the order


def test_order_of_frames_matters_only_with_positions(
    pipeline: Pipeline, positioned: Pipeline, golden_frames: np.ndarray
) -> None:
    order = np.random.default_rng(0).permutation(len(golden_frames))

    def compare(pipeline: Pipeline) -> float:
        """The relative change of the latents with the order."""
        latents = [
            pipeline.denoise(pipeline.encode(frames), steps=3, guidance=2.0, seed=1)
            for frames in (golden_frames, golden_frames[order])
        ]
        return relative_error(latents[1], latents[0])

    assert compare(pipeline) < 1e-4  # the same but for the order in which attention adds up
    assert compare(positioned) > 10 * 1e-4


def test_padded_batch(pipeline: Pipeline, goldens: Goldens, golden_frames: np.ndarray) -> None:
    lengths = goldens["cond_batch_mask"].sum(axis=1)
    tokens, mask = pad_tokens([pipeline.encode(golden_frames[:length]) for length in lengths])
    np.testing.assert_array_equal(mask, goldens["cond_batch_mask"])
    assert relative_error(tokens, goldens["cond_batch"]) < SINGLE_STAGE


def test_unet(tiny_checkpoint: Path, goldens: Goldens, tmp_path: Path) -> None:
    """The network's own output is what a step with p = 0 and q = 1 calls the data prediction."""
    checkpoint = open_checkpoint(tiny_checkpoint)
    model, frames = configure_runtime(checkpoint.config, 2.56)
    stage = denoiser(checkpoint.modules.unet, model, frames, guided=False, dynamic_batch=False)
    session = open_exported(stage, tmp_path)
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
