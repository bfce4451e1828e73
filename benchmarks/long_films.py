"""Seams of long films: ways to make sound in windows, on generated films whose events are known.

    python benchmarks/long_films.py --films 20 --seconds 60

Every film is made twice by each way, the second time with all seams half a window's stride elsewhere, so that whatever is
measured at a seam is also measured at the same moment in the middle of a window. Where the denoiser's graph has a fixed
length, as in engines/demo, no single pass over the whole film is possible to compare with; the middle of a window is what
it would give. Films, their events and true sounds come from train.demo.synthetic. The table goes to standard output, figures to
benchmarks/results/long_films.json.

What is measured, within 0.5 s of a seam unless said otherwise:

F1          onset F1 within 50 ms of true events, and its difference from elsewhere
lost, new   events found in the middle of a window and not at a seam, and the other way round, of all near seams
doubled     events with more onsets than true ones, at a seam but not in the middle, less those the other way round
flux        rank, in percent, of the largest log-mel flux within 50 ms of a seam among such moments elsewhere: median over
            seams, and the share of seams above the 95th percentile; in brackets the same moments in the middle of a window
4-8 kHz     energy within 0.32 s of seams over that of the same moments in the middle of a window
loudness    median and 95th percentile of the absolute difference, at a seam and in the middle, of the steps in level from the
            0.3 s before to the 0.3 s after, dB
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import machine
import numpy as np
from scipy.ndimage import maximum_filter1d
from tqdm import tqdm

from train.demo.evaluate.score import mel_of
from train.demo.synthetic.dataset import write_video
from train.demo.synthetic.render import Camera
from train.demo.synthetic.scene import compose
from train.onsets import match_onsets, onsets_of_mel
from vta_rt import Pipeline, film
from vta_rt.denoise import State
from vta_rt.film import Film
from vta_rt.sampling import Sampling
from vta_rt.video import frames_of
from vta_rt.windows import FilmNoise, Windows

KINDS = ("strike", "mixed", "spin", "bounce")  # of scenes, in turn
NEAR = 0.5  # s from a seam
ROOM = -8.0  # log-mel of the quiet room; what is below counts as that
RATE = 16_000


@dataclass(frozen=True)
class Case:
    """A film's frames as the model takes them, and the times of its events."""

    frames: np.ndarray  # [T, S, S, 3] uint8
    seconds: float
    times: list[float]


# The ways: subclasses that change one thing of what the package does.


class Shifted(Windows):
    """Seams half a stride elsewhere."""

    @cached_property
    def starts(self) -> list[int]:
        starts = Windows(self.model, self.frames, self.seconds).starts
        middles = [(before + after) // 2 for before, after in pairwise(starts)]
        return [0, *middles, starts[-1]]


class Alone(Film):
    """Windows that know nothing of each other but the noise; their waves are crossfaded."""

    def _needed(self, first: int, last: int) -> list[tuple[int, int]]:
        return [(first, last) for _ in self._parts]

    def _exchanged(self, index: int, part: int) -> State:
        return self._states[part][index]


@dataclass(frozen=True)
class OwnNoise(FilmNoise):
    """Other noise for each window."""

    def draw(self, row: int, steps: slice) -> np.ndarray:
        seeds = np.random.SeedSequence(self.entropy, spawn_key=(steps.start, row))
        return np.random.default_rng(seeds).standard_normal(self.model.latent_shape()[1:], dtype=np.float32)


class Averaged(Film):
    """Overlaps averaged after each part, but for the margins (MultiDiffusion, arXiv 2302.08113)."""

    def _exchanged(self, index: int, part: int) -> State:
        windows, states = self.windows, self._states[part]
        count = np.zeros(windows.size, np.float32)
        sums = [np.zeros_like(states[index].latents) for _ in range(2)]
        low, high = windows.neighbours(index, index)
        for other in range(low, high + 1):
            first = windows.starts[other] + (windows.margin if other else 0)
            last = windows.starts[other] + windows.size - (windows.margin if other + 1 < len(windows) else 0)
            steps = np.arange(windows.starts[index], windows.starts[index] + windows.size)
            mine = np.flatnonzero((steps >= first) & (steps < last))
            count[mine] += 1
            for total, array in zip(sums, states[other], strict=True):
                total[:, mine] += array[:, steps[mine] - windows.starts[other]]
        return State(*(total / count[:, None] for total in sums))


class Clamped(Film):
    """One window after another; the overlap is clamped to the latents that the one before had after the same part."""

    def _needed(self, first: int, last: int) -> list[tuple[int, int]]:
        return [(max(0, first - 3), min(last + 1, len(self.windows) - 1)) for _ in self._parts]

    def _advance(self, part: int, indices: list[int]) -> None:
        super()._advance(part, indices)
        windows, states = self.windows, self._states[part]
        for index in indices:
            if index:
                shared = windows.seams[index] + windows.braid - windows.starts[index]
                shift = windows.starts[index] - windows.starts[index - 1]
                for array, before in zip(states[index], states[index - 1], strict=True):
                    array[:, :shared] = before[:, shift : shift + shared]

    def _exchanged(self, index: int, part: int) -> State:
        if part + 1 < len(self._parts) or index + 1 == len(self.windows):
            return self._states[part][index]
        return super()._exchanged(index, part)  # the tail, from the next


class Guided(Film):
    """Swapped, and after the first part every other latent step is the first window's: a reference (SaFa)."""

    def _exchanged(self, index: int, part: int) -> State:
        state = super()._exchanged(index, part)
        if part == 0:
            self._reference = getattr(self, "_reference", None) or self._states[0][0]
            for array, reference in zip(state, self._reference, strict=True):
                array[:, ::2] = reference[:, ::2]
        return state


WAYS: dict[str, tuple[type[Film], type[FilmNoise]]] = {
    "crossfade, own noise": (Alone, OwnNoise),
    "crossfade": (Alone, FilmNoise),
    "average": (Averaged, FilmNoise),
    "clamp": (Clamped, FilmNoise),
    "swap": (Film, FilmNoise),
    "swap, reference": (Guided, FilmNoise),
}


def main() -> None:
    options = _parser().parse_args()
    pipeline = Pipeline(options.bundle, backend=options.backend, threads=options.threads)
    sampling = pipeline.bundle.manifest.sampling.replace(steps=options.steps, solver=options.solver)
    film.MAX_EXCHANGES = options.exchanges
    cases = [make_case(pipeline, index, options.seconds) for index in tqdm(range(options.films), unit="film")]
    rows = []
    for way in options.way:
        found, seconds = [], 0.0
        for seed, case in enumerate(tqdm(cases, desc=way, unit="film", disable=None, leave=False)):
            start = time.process_time()
            waves = [
                make_sound(pipeline, case, sampling, way, windows(pipeline.model, pipeline.frames, case.seconds), seed)
                for windows in (Windows, Shifted)
            ]
            seconds += time.process_time() - start
            found += [
                compare(case, waves[0], waves[1], seams_of(Windows(pipeline.model, pipeline.frames, case.seconds))),
                compare(case, waves[1], waves[0], seams_of(Shifted(pipeline.model, pipeline.frames, case.seconds))),
            ]
        rows.append({"way": way, "processor_seconds": round(seconds / len(cases) / 2, 2), **pool(found)})
        print(table(rows[-1:]), flush=True)
    about = {
        "bundle": options.bundle,
        "backend": pipeline.backend,
        "films": options.films,
        "seconds": options.seconds,
        "events": sum(len(case.times) for case in cases),
        "sampling": vars(sampling),
        "exchanges": options.exchanges,
    }
    machine.write(options.name, {**about, "rows": rows})
    print(table(rows))


def make_case(pipeline: Pipeline, index: int, seconds: float) -> Case:
    """Film number ``index``: a scene of the generated world that goes on for so long."""
    scene = compose(np.random.default_rng([77, index]), seconds, KINDS[index % len(KINDS)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_video(path, scene, Camera(scene))
        frames = frames_of(path, pipeline.frames)
    return Case(frames, seconds, [hit.time for hit in scene.hits])


def make_sound(pipeline: Pipeline, case: Case, sampling: Sampling, way: str, windows: Windows, seed: int) -> np.ndarray:
    """The film's sound, ``[samples]``."""
    kind, noise = WAYS[way]
    plan = sampling.plan(pipeline.schedule)
    frames: Iterator[np.ndarray] = iter(case.frames)
    chunks = kind(pipeline.run, windows, plan, noise(seed, pipeline.model), frames).chunks(0, windows.samples)
    return np.concatenate([*chunks])


def seams_of(windows: Windows) -> list[float]:
    """In seconds."""
    return [seam * windows.hop / windows.model.sample_rate for seam in windows.seams[1:-1]]


def compare(case: Case, wave: np.ndarray, other: np.ndarray, seams: list[float]) -> dict[str, Any]:
    """What is at the seams of a wave, against the rest of it and the same moments of another one with other seams."""
    mel, other_mel = mel_of(wave), mel_of(other)
    found, other_found = onsets_of_mel(mel).tolist(), onsets_of_mel(other_mel).tolist()
    near_found, near = _near(found, seams), _near(case.times, seams)
    pairs = match_onsets(found, case.times, 0.05)
    matched = sum(near[event] for _, event in pairs)
    hit, other_hit = ({event for _, event in match_onsets(each, case.times, 0.1)} for each in (found, other_found))
    doubled, other_doubled = _doubled(found, case.times, near), _doubled(other_found, case.times, near)
    flux, other_flux = _flux_ranks(mel, seams), _flux_ranks(other_mel, seams)
    steps = []
    for seam in seams:
        levels = [[_level(each, seam - 0.3, seam), _level(each, seam, seam + 0.3)] for each in (wave, other)]
        if max(map(max, levels)) > -55:  # dB; nobody hears steps in the room's noise
            steps.append(abs((levels[0][1] - levels[0][0]) - (levels[1][1] - levels[1][0])))
    return {
        "near": np.array([matched, sum(near_found), sum(near)]),
        "elsewhere": np.array([len(pairs) - matched, len(found) - sum(near_found), len(near) - sum(near)]),
        "lost": sum(near[event] for event in other_hit - hit),
        "new": sum(near[event] for event in hit - other_hit),
        "doubled": len(doubled - other_doubled) - len(other_doubled - doubled),
        "flux": flux,
        "flux_middle": other_flux,
        "high": np.array([sum(_high_energy(each, seam) for seam in seams) for each in (wave, other)]),
        "steps": steps,
    }


def pool(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all films together."""
    total: Callable[[str], Any] = lambda name: sum(each[name] for each in found)  # noqa: E731
    joined = {name: np.concatenate([each[name] for each in found]) for name in ("flux", "flux_middle", "steps")}
    near, elsewhere, high = total("near"), total("elsewhere"), total("high")
    f1 = [float(2 * counts[0] / max(counts[1] + counts[2], 1)) for counts in (near, elsewhere)]
    return {
        "seams": len(joined["flux"]),
        "events_near": int(near[2]),
        "f1": round(f1[0], 4),
        "f1_difference": round(f1[0] - f1[1], 4),
        **{name: int(total(name)) for name in ("lost", "new", "doubled")},
        **{name: round(float(np.median(joined[name])), 1) for name in ("flux", "flux_middle")},
        **{f"{name}_above": round(float((joined[name] > 95).mean()) * 100, 1) for name in ("flux", "flux_middle")},
        "high": round(float(high[0] / high[1]), 3),
        "step": round(float(np.median(joined["steps"])), 2),
        "step_95": round(float(np.percentile(joined["steps"], 95)), 2),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "| way | F1 at seams | minus elsewhere | lost | new | doubled | flux, median rank | above the 95th, % | 4-8 kHz "
        "| loudness step, dB | 95th | s a film |",
        "| --- " * 12 + "|",
    ]
    for row in rows:
        cells = [
            row["way"],
            f"{row['f1']:.3f}",
            f"{row['f1_difference']:+.3f}",
            *(row[name] for name in ("lost", "new", "doubled")),
            f"{row['flux']:.0f} ({row['flux_middle']:.0f})",
            f"{row['flux_above']:.0f} ({row['flux_middle_above']:.0f})",
            f"{row['high']:.3f}",
            f"{row['step']:.2f}",
            f"{row['step_95']:.1f}",
            f"{row['processor_seconds']:.1f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _near(times: list[float] | np.ndarray, seams: list[float]) -> list[bool]:
    return (np.abs(np.subtract.outer(times, seams)) <= NEAR).any(axis=1).tolist()


def _doubled(found: list[float], times: list[float], near: list[bool]) -> set[int]:
    """Events near seams that have more onsets around them than there are events."""
    around: Callable[[list[float], float], int] = lambda each, time: sum(abs(other - time) < 0.2 for other in each)  # noqa: E731
    return {index for index, time in enumerate(times) if near[index] and around(found, time) > around(times, time)}


def _flux_ranks(mel: np.ndarray, seams: list[float]) -> np.ndarray:
    flux = np.abs(np.diff(np.maximum(mel, ROOM), axis=0)).mean(1)
    largest = maximum_filter1d(flux, 11)
    frames = np.arange(50, len(largest) - 50)
    elsewhere = np.sort(largest[frames[~np.array(_near(frames / 100, seams))]])
    return np.searchsorted(elsewhere, largest[[int(seam * 100) for seam in seams]]) / len(elsewhere) * 100


def _high_energy(wave: np.ndarray, seam: float) -> float:
    part = wave[int((seam - 0.32) * RATE) : int((seam + 0.32) * RATE)]
    spectrum = np.fft.rfft(part * np.hanning(len(part)))
    return float((np.abs(spectrum[np.fft.rfftfreq(len(part), 1 / RATE) >= 4000]) ** 2).sum())


def _level(wave: np.ndarray, start: float, end: float) -> float:
    return float(10 * np.log10(np.mean(wave[int(start * RATE) : int(end * RATE)].astype(np.float64) ** 2) + 1e-9))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="engines/demo")
    parser.add_argument("--films", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--way", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--solver")
    parser.add_argument("--exchanges", type=int, default=film.MAX_EXCHANGES, help="of latents, at most")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--name", default="long_films", help="of the file in benchmarks/results")
    return parser


if __name__ == "__main__":
    main()
