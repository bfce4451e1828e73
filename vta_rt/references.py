"""What the graphs of a bundle gave where it was built, to compare with what they give here.

The inputs follow from formulas on integers, so that any runtime can make them. Of an output only a sketch is kept (count
sketch, Charikar, Chen and Farach-Colton 2002): each value goes, with a random sign, into one of ``BUCKETS`` sums. The norm of the
difference of two sketches is that of the difference of the outputs, give or take 4 % (one standard deviation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from vta_rt.denoise import Noise
from vta_rt.documents import read_document
from vta_rt.errors import BundleError
from vta_rt.files import atomic_write
from vta_rt.manifest import Manifest
from vta_rt.sampling import UNGUIDED, Sampling, SamplingPlan
from vta_rt.spectrum import log_mel, spectrum
from vta_rt.stages import Stages

REFERENCES_VERSION = 1  # of the file and of the formulas
BUCKETS = 256
MAX_STEPS = 4  # of the denoising loop, so that a check takes no longer than a generation
BOUNCE = 16  # frames from one time that the square touches the ground to the next
GOLDEN, MIX_1, MIX_2 = (np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
LOOP, SOUND = "denoising loop", "sound"  # what is compared besides graphs


@dataclass(frozen=True)
class Reference:
    """One output."""

    shape: tuple[int, ...]
    norm: float
    sketch: tuple[float, ...]


@dataclass(frozen=True)
class References:
    """``references.json``."""

    format_version: int
    sampling: Sampling  # of the denoising loop
    made_on: str  # backend and processor, for people
    outputs: dict[str, Reference]


def read_references(path: Path) -> References:
    """Read a ``references.json``.

    Raises:
        BundleError: it is missing, is not JSON, has another format version, or a field is wrong, which is named.
    """
    return read_document(path, References, error=BundleError, versions=range(1, REFERENCES_VERSION + 1))


def write_references(path: Path, references: References) -> None:
    """Write ``references.json``, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(asdict(references)) + b"\n")


def make_references(outputs: Mapping[str, np.ndarray], sampling: Sampling, made_on: str) -> References:
    """The references of what ``run_everything`` gave."""
    made = {name: Reference(array.shape, _round(_norm(array)), tuple(map(_round, _sketch(array)))) for name, array in outputs.items()}
    return References(REFERENCES_VERSION, sampling, made_on, made)


def loop_sampling(sampling: Sampling) -> Sampling:
    """The bundle's own sampling, in at most ``MAX_STEPS`` steps."""
    return sampling.replace(steps=min(sampling.steps, MAX_STEPS))


def relative_error(output: np.ndarray, reference: Reference) -> float:
    """Norm of the difference over that of the reference, estimated from the sketches; infinite for another shape."""
    if output.shape != reference.shape or len(reference.sketch) != BUCKETS:
        return math.inf
    error = float(np.linalg.norm(_sketch(output) - np.array(reference.sketch))) / max(reference.norm, 1e-30)
    return error if math.isfinite(error) else math.inf


def run_everything(stages: Stages, manifest: Manifest, sampling: Sampling) -> dict[str, np.ndarray]:
    """The output of every graph on made-up input, of the denoising loop on the made-up frames, and the sound's spectrum.

    Graphs get inputs of their own, so that an error in one shows in no other; the loop and the sound are a generation.
    """
    model, frames = manifest.model, manifest.frames
    shape, count = model.latent_shape()[1:], model.token_count(frames)
    initial, tokens = make_noise(1, (1, *shape)), make_noise(2, (count, model.token_width))
    mask = np.arange(count)[None] < count - count // 3
    mel = make_noise(4, (1, model.mel_frames, model.mel_bins)) * np.float32(2) - np.float32(4)  # about the range of log-mels
    outputs = {}

    encoded = stages.encode(make_frames(model.frame_count(frames), frames.size))
    outputs["visual_encoder"] = stages.lane.get(encoded)
    if model.text is not None:
        ids = np.arange(1, min(model.text.context, 9)) * 37 % (model.text.vocabulary - 1)
        outputs["text_encoder"] = stages.encode_text(np.append(ids, model.text.vocabulary - 1).astype(np.int64), 1)
    for graph, guidance in (("denoiser", 3.0), ("denoiser_unguided", UNGUIDED)):
        negative = [make_noise(3, tokens.shape)] if model.text is not None and guidance != UNGUIDED else []
        noise = Noise(0, initial=initial, steps=make_noise(5, (2, 1, *shape)))
        steps = _two_steps(manifest.schedule.train_timesteps, guidance)
        (latents,) = stages.denoise(steps, noise, [tokens], mask=mask, negative_tokens=negative)
        outputs[graph] = stages.lane.get(latents)
    outputs["vae_decoder"] = stages.lane.get(stages.decode([initial[0]])[0])
    outputs["vocoder"] = stages.lane.get(stages.vocode([mel])[0])

    noise = Noise(0, initial=initial, steps=make_noise(6, (sampling.steps, 1, *shape)))
    latents = stages.denoise(sampling.plan(manifest.schedule), noise, [encoded])
    outputs[LOOP] = stages.lane.get(latents[0])
    wave = stages.lane.get(stages.vocode(stages.decode(latents))[0])
    outputs[SOUND] = log_mel(spectrum(wave), model.sample_rate, model.mel_bins)
    return outputs


def make_frames(count: int, size: int) -> np.ndarray:
    """A square that bounces on its way from left to right, ``[count, size, size, 3]`` uint8."""
    t, y, x, colour = np.ogrid[:count, :size, :size, :3]
    height = np.abs(2 * (t % BOUNCE) - BOUNCE) * size // (2 * BOUNCE)
    down, right = size - size // 8 - height, t * size // count
    inside = (np.abs(y - down) < size // 10) & (np.abs(x - right) < size // 10)
    return np.where(inside, 220 - 40 * colour, 40 + 20 * colour).astype(np.uint8)


def make_noise(stream: int, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of mean 0 and variance 1, float32, nearly Gaussian: sums of the four quarters of 64 random bits."""
    quarters = _random_bits(stream, math.prod(shape)).view(np.uint16).reshape(-1, 4)
    sums = quarters.sum(axis=1, dtype=np.int64) - 2 * 65535
    return (sums / (65536 / math.sqrt(3))).astype(np.float32).reshape(shape)


def _random_bits(stream: int, count: int) -> np.ndarray:
    """The first numbers of SplitMix64 (Steele, Lea and Flood 2014) from the seed ``stream``, uint64."""
    state = np.uint64(stream) + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    state = (state ^ (state >> np.uint64(30))) * MIX_1
    state = (state ^ (state >> np.uint64(27))) * MIX_2
    return state ^ (state >> np.uint64(31))


def _two_steps(timesteps: int, guidance: float) -> SamplingPlan:
    """Two rows of no real solver, in which every input of a denoiser has its part."""
    rows = [[0.8, 0.4, -0.9, 0.5, 0.6, 0.0, 0.3], [0.02, 0.4, -0.9, 0.5, 0.6, -0.2, 0.3]]
    table = np.array(rows) * [timesteps, 1, 1, 1, 1, 1, 1]
    return SamplingPlan(np.floor(table * [1, 0, 0, 0, 0, 0, 0]) + table * [0, 1, 1, 1, 1, 1, 1], np.full(2, guidance))


def _sketch(array: np.ndarray) -> np.ndarray:
    bits = _random_bits(0, array.size)
    signs = np.where(bits >> np.uint64(63), -1.0, 1.0)
    return np.bincount((bits % np.uint64(BUCKETS)).astype(np.intp), array.ravel() * signs, BUCKETS)


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def _round(value: float) -> float:
    return float(f"{value:.8g}")
