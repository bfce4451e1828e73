"""What the graphs of a bundle gave where it was built, to compare with what they give here.

The inputs follow from formulas on integers, so that any runtime can make them. Of an output only a count sketch is kept
(Charikar, Chen and Farach-Colton 2002): each value goes, with a random sign, into one of ``BUCKETS`` sums. The norm of the
difference of two sketches is that of the difference of the outputs, give or take 4 % (one standard deviation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from vta_rt.bundle import Bundle
from vta_rt.denoise import Noise
from vta_rt.documents import read_document
from vta_rt.errors import BundleError, OptionError, show
from vta_rt.files import atomic_write
from vta_rt.manifest import Manifest, Precision
from vta_rt.pipeline import Pipeline
from vta_rt.sampling import UNGUIDED, Sampling, SamplingPlan
from vta_rt.spectrum import log_mel, spectrum
from vta_rt.stages import Stages

REFERENCES_VERSION = 1  # of the file and of the formulas
# Relative. At int8 twice what export.quantize allows against fp32: two processors may differ from it in opposite directions.
MAX_ERRORS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2, "int8": 4e-2}
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
    made_with: str  # for people
    sampling: Sampling  # of the denoising loop
    outputs: dict[str, Reference]


class Difference(NamedTuple):
    """How far an output is from its reference."""

    stage: str  # a graph, LOOP or SOUND
    relative_error: float
    allowed: float

    @property
    def is_too_large(self) -> bool:
        return not self.relative_error <= self.allowed


def read_references(bundle: Bundle) -> References | None:
    """A bundle's references; None if it was built without any.

    Raises:
        BundleError: the file is not JSON, has another format version, or a field is wrong, which is named.
    """
    if (record := bundle.manifest.references) is None:
        return None
    path = bundle.path / record.file
    references = read_document(path, References, error=BundleError, versions=range(1, REFERENCES_VERSION + 1))
    try:
        references.sampling.plan(bundle.manifest.schedule)
    except OptionError as error:
        raise BundleError(f"{path}: its section sampling is not possible: {error}") from None
    if not references.made_with.isprintable():
        raise BundleError(f"{path}: made_with is {show(references.made_with)}, a line of text is needed")
    if references.sampling.steps > MAX_STEPS:
        raise BundleError(f"{path}: sampling.steps is {references.sampling.steps}, at most {MAX_STEPS} are allowed")
    return references


def write_references(path: Path, outputs: Mapping[str, np.ndarray], sampling: Sampling, made_with: str) -> None:
    """Write what ``run_everything`` gave as ``references.json``, completely or not at all."""
    made = {
        name: Reference(
            array.shape, _round(np.linalg.norm(array.astype(np.float64))), tuple(map(_round, _sketch(array)))
        )
        for name, array in outputs.items()
    }
    with atomic_write(path) as temporary:
        document = asdict(References(REFERENCES_VERSION, made_with, sampling, made))
        temporary.write_bytes(msgspec.json.encode(document) + b"\n")


def loop_sampling(manifest: Manifest) -> Sampling:
    """The bundle's own sampling, in at most ``MAX_STEPS`` steps."""
    return manifest.sampling.replace(steps=min(manifest.sampling.steps, MAX_STEPS))


def compare_with_references(pipeline: Pipeline, references: References) -> list[Difference]:
    """Run everything here and compare it with the references.

    A graph may differ as much as its precision allows. In the loop and the sound the errors of several graphs add up, so
    that twice as much is allowed there as of the coarsest graph.
    """
    manifest = pipeline.bundle.manifest
    outputs = pipeline.run(lambda stages: run_everything(stages, manifest, references.sampling))
    allowed = {
        name: MAX_ERRORS[pipeline.session(name).computes_in or record.precision]
        for name, record in manifest.graphs.items()
        if name in outputs
    }
    sums = dict.fromkeys((LOOP, SOUND), 2 * max(allowed.values()))
    return [
        Difference(name, _relative_error(outputs[name], references.outputs.get(name)), most)
        for name, most in (allowed | sums).items()
    ]


def run_everything(stages: Stages, manifest: Manifest, sampling: Sampling) -> dict[str, np.ndarray]:
    """The output of every graph on made-up input, of the denoising loop on the made-up frames, and the sound's spectrum.

    Graphs get inputs of their own, so that an error in one shows in no other; the loop and the sound are a generation.
    """
    model, frames = manifest.model, manifest.frames
    shape, count = model.latent_shape()[1:], model.token_count(frames)
    initial, tokens = make_noise(1, (1, *shape)), make_noise(2, (count, model.token_width))
    mask = np.arange(count)[None] < count - count // 3
    mel = make_noise(4, (1, model.mel_frames, model.mel_bins)) * np.float32(2) - np.float32(
        4
    )  # about the range of log-mels
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

    plan = sampling.plan(manifest.schedule)
    noise = Noise(0, initial=initial, steps=make_noise(6, (len(plan), 1, *shape)))
    latents = stages.denoise(plan, noise, [encoded])
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


def _relative_error(output: np.ndarray, reference: Reference | None) -> float:
    """Norm of the difference over that of the reference, estimated; infinite for another shape, and where it is missing."""
    if reference is None or output.shape != reference.shape or len(reference.sketch) != BUCKETS:
        return math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.linalg.norm(_sketch(output) - np.array(reference.sketch))) / max(abs(reference.norm), 1e-30)
    return error if math.isfinite(error) else math.inf


def _round(value: Any) -> float:
    return float(f"{value:.8g}")
