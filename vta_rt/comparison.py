"""Two bundles, or one bundle on two backends: how far apart they are, stage by stage on the same inputs, and in their sound."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vta_rt.denoise import Noise
from vta_rt.errors import OptionError, check_integer
from vta_rt.manifest import Manifest
from vta_rt.pipeline import Pipeline
from vta_rt.references import make_frames
from vta_rt.sampling import SamplingPlan
from vta_rt.schedule import Column
from vta_rt.spectrum import log_mel, spectrum
from vta_rt.stages import Stages

SILENCE = 1e-10  # root mean square that levels are counted from, at least


@dataclass(frozen=True)
class Side:
    """What one of the two gave."""

    outputs: dict[str, np.ndarray]  # by stage, each from the first one's output of the stage before
    sound: np.ndarray  # [samples], each stage from its own output of the stage before


@dataclass(frozen=True)
class Distances:
    """From one side to the other."""

    relative_error: dict[str, float]  # by stage: norm of the difference over the first one's norm
    log_mel_distance: float  # mean difference of the sounds' log-mel spectrograms, in dB
    spectral_convergence: (
        float  # norm of the difference of the sounds' spectra over the first one's norm (arXiv 1808.06719)
    )
    level: float  # of the second one's sound over the first one's, in dB


def compare(first: Pipeline, second: Pipeline, *, frames: np.ndarray | None = None, seed: int = 0) -> Distances:
    """Run both on the same inputs. ``first`` is closed after its part, so that the graphs of one are in memory at a time.

    The stages are ``tokens`` of the frames, ``step``, the data that the denoiser predicts from pure noise at the first one's
    first timestep, ``latents`` after all steps, ``mel`` and ``wave``. Each has its own bundle's guidance, steps and solver.

    Args:
        frames: ``[T, S, S, 3]`` uint8, at the model's own rate and size; None for a made-up clip.
        seed: of the noise.

    Raises:
        OptionError: the two have arrays of different shapes, or other frames or sound.
    """
    check_integer("seed", seed, 0)
    check_shapes(first, second)
    if frames is None:
        frames = make_frames(first.model.frame_count(first.frames), first.frames.size)
    step = first.bundle.manifest.sampling.plan(first.schedule).table[:1]
    step[:, Column.A :] = [0, 1, 0, 0]  # the next latents are the data prediction itself
    one = _run(first, frames, seed, step, {})
    first.close()
    return measure(one, _run(second, frames, seed, step, one.outputs), first.model.sample_rate, first.model.mel_bins)


def check_shapes(first: Pipeline, second: Pipeline) -> None:
    """Refuse two bundles that cannot be fed the same arrays; raises as ``compare``."""
    ours, theirs = (_describe(pipeline.bundle.manifest) for pipeline in (first, second))
    for what, value in ours.items():
        if value != theirs[what]:
            raise OptionError(
                f"{first.bundle.path} and {second.bundle.path} cannot be compared: {what} {value} and {theirs[what]}"
            )


def measure(first: Side, second: Side, sample_rate: int, mel_bins: int) -> Distances:
    """How far apart two sides are."""
    ours, theirs = spectrum(first.sound), spectrum(second.sound)
    mels = [log_mel(magnitudes, sample_rate, mel_bins) for magnitudes in (ours, theirs)]
    levels = [20 * math.log10(max(_root_mean_square(side.sound), SILENCE)) for side in (first, second)]
    return Distances(
        {stage: _relative_error(array, second.outputs[stage]) for stage, array in first.outputs.items()},
        float(np.abs(mels[0] - mels[1]).mean()) * 20 / math.log(10),
        _relative_error(ours, theirs),
        levels[1] - levels[0],
    )


def as_fields(distances: Distances) -> dict[str, Any]:
    """For JSON, with the units in the names."""
    fields = asdict(distances)
    return fields | {f"{name}_db": fields.pop(name) for name in ("log_mel_distance", "level")}


def _run(pipeline: Pipeline, frames: np.ndarray, seed: int, step: np.ndarray, given: dict[str, np.ndarray]) -> Side:
    """Run all stages on what the other side gave, or else on their own, and then make the sound from their own."""
    plan, noise = pipeline.bundle.manifest.sampling.plan(pipeline.schedule), Noise(seed)
    first_step = SamplingPlan(step, plan.guidance_scales[:1])

    def work(stages: Stages) -> Side:
        get = stages.lane.get
        own = get(stages.encode(frames))
        tokens = given.get("tokens", own)
        outputs = {
            "tokens": own,
            "step": get(stages.denoise(first_step, noise, [tokens])[0]),
            "latents": get(stages.denoise(plan, noise, [tokens])[0]),
        }
        outputs["mel"] = get(stages.decode([given.get("latents", outputs["latents"])])[0])
        outputs["wave"] = get(stages.vocode([given.get("mel", outputs["mel"])])[0])
        sound = outputs["wave"]
        if given:
            sound = get(stages.vocode(stages.decode(stages.denoise(plan, noise, [own])))[0])
        length = round(len(frames) / pipeline.frames.rate * pipeline.model.sample_rate)
        return Side(outputs, sound[: min(length, pipeline.model.samples)])

    return pipeline.run(work)


def _describe(manifest: Manifest) -> dict[str, object]:
    model, frames = manifest.model, manifest.frames
    count = model.frame_count(frames)
    return {
        "they take frames": [count, frames.size, frames.size, 3],
        "a second they take frames": frames.rate,
        "they make tokens": [model.token_count(frames), model.token_width],
        "they make latents": list(model.latent_shape()[1:]),
        "they make mels": [model.mel_frames, model.mel_bins],
        "their samples a second are": model.sample_rate,
        "samples of a mel frame are": model.hop_length,
    }


def _relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:  # such as waves of vocoders with another tail
        size = min(len(ours), len(theirs))
        ours, theirs = ours[:size], theirs[:size]
    difference = np.linalg.norm(theirs.astype(np.float64) - ours)
    return float(difference) / max(float(np.linalg.norm(ours.astype(np.float64))), 1e-30)


def _root_mean_square(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave.astype(np.float64)))))
