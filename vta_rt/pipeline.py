"""The stages put together: video -> frames -> tokens -> latents -> mel -> wave. Knows no file format of graphs or engines."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, overload

import numpy as np

from vta_rt import video as videos
from vta_rt.audio import Audio
from vta_rt.backends import choose
from vta_rt.backends.base import Session
from vta_rt.bundle import Bundle, find_bundle
from vta_rt.denoise import denoise
from vta_rt.errors import OptionError, VTAError
from vta_rt.manifest import MANIFEST
from vta_rt.schedule import solver_table

Path = str | os.PathLike[str]
Seed = int | None
Progress = Callable[[str, int, int], Any]
"""Called as ``progress(stage, done, total)``; stages are frames, encode, denoise, decode and vocode, in this order."""


class Pipeline:
    """A loaded bundle. Make one, use it for many videos, from any number of threads.

    Args:
        bundle: folder or model-hub id of a bundle; None for the newest in ``engines/``.
        backend: ``auto`` or the name of one (``vta_rt.backends.BACKENDS``).
        threads: cores the backend may use; None for all.

    Raises:
        BundleError: the bundle cannot be found, is altered, or holds other graphs than it says.
        OptionError: an unknown backend, or threads below 1.
    """

    def __init__(self, bundle: Path | None = None, *, backend: str = "auto", threads: int | None = None) -> None:
        self.bundle = Bundle(find_bundle() if bundle is None else bundle)
        self.model = self.bundle.manifest.model
        self.frames = self.bundle.manifest.frames
        self.schedule = self.bundle.manifest.schedule
        self._load, self.backend = choose(self.bundle, backend, threads)
        self._sessions: dict[str, Session] = {}
        self._loading = threading.Lock()

    def session(self, graph: str) -> Session:
        """The loaded graph of that name; loaded on first use, so that a run holds only the graphs it needs."""
        with self._loading:
            if graph not in self._sessions:
                self._sessions[graph] = self._load(graph)
            return self._sessions[graph]

    @overload
    def generate(
        self,
        video: Path,
        *,
        seed: Seed = 0,
        steps: int = 25,
        solver: str = "dpmpp_2m",
        guidance: float = 3.0,
        progress: Progress | None = None,
    ) -> Audio: ...
    @overload
    def generate(
        self,
        video: list[Path] | tuple[Path, ...],
        *,
        seed: Seed = 0,
        steps: int = 25,
        solver: str = "dpmpp_2m",
        guidance: float = 3.0,
        progress: Progress | None = None,
    ) -> list[Audio]: ...
    def generate(
        self,
        video: Path | list[Path] | tuple[Path, ...],
        *,
        seed: Seed = 0,
        steps: int = 25,
        solver: str = "dpmpp_2m",
        guidance: float = 3.0,
        progress: Progress | None = None,
    ) -> Audio | list[Audio]:
        """Sound for a video, as long as the video or as the model's window, whichever is shorter.

        Args:
            video: a file, or several: each gets the sound it would get alone.
            seed: of the noise; the same seed gives the same sound, None another one each time.
            steps: denoiser calls, 1 to the schedule's training timesteps.
            solver: a row of ``vta_rt.schedule.SOLVERS``: ``ddpm``, ``ddim``, ``dpmpp_2m``.
            guidance: classifier-free guidance scale, 0 or more; 1 runs the unguided graph at half the cost.
            progress: ``progress(stage, done, total)``, called as work gets done.

        Raises:
            VideoError: a file cannot be opened or has no pictures.
            OptionError: a value outside what is allowed.
        """
        paths = list(video) if isinstance(video, (list, tuple)) else [video]
        if not paths:
            raise OptionError("no video given, at least one is needed")
        report = progress or _no_progress
        self._table(steps, solver, guidance)  # these two before the work that comes first
        _check_seed(seed)

        durations, tokens = [], []
        for index, path in enumerate(paths):
            report("frames", index, len(paths))
            durations.append(min(videos.probe(path).duration, self.model.seconds))
            frames = videos.sample_frames(
                path, self.frames.rate, self.frames.size, fit=self.frames.fit, seconds=self.model.seconds
            )
            report("frames", index + 1, len(paths))
            report("encode", index, len(paths))
            tokens.append(self.encode(frames))
            report("encode", index + 1, len(paths))
        batch, mask = pad_tokens(tokens)
        latents = self.denoise(
            batch, steps=steps, solver=solver, guidance=guidance, seed=seed, token_mask=mask, progress=report
        )
        audios = []
        for index, duration in enumerate(durations):
            report("decode", index, len(paths))
            mel = self.decode(latents[index : index + 1])
            report("decode", index + 1, len(paths))
            report("vocode", index, len(paths))
            wave = self.vocode(mel)
            report("vocode", index + 1, len(paths))
            if not np.isfinite(wave).all():
                raise VTAError(f"{paths[index]}: the model gave values that are not finite; a bundle at fp32 may help")
            audios.append(Audio(wave[0], self.model.sample_rate).trim(duration))
        return audios if isinstance(video, (list, tuple)) else audios[0]

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Frames ``[T, H, W, 3]`` uint8 -> tokens ``[T, D]`` float32; ``[B, T, H, W, 3]`` -> ``[B, T, D]``.

        Raises:
            OptionError: another shape or type.
        """
        size = self.frames.size
        if (
            frames.ndim not in (4, 5)
            or frames.shape[-3:] != (size, size, 3)
            or frames.dtype != np.uint8
            or 0 in frames.shape
        ):
            raise OptionError(
                f"frames are {frames.dtype} {list(frames.shape)}, the model takes uint8 [T, {size}, {size}, 3] "
                f"or [B, T, {size}, {size}, 3]"
            )
        if frames.ndim == 5:
            return np.stack([self.encode(clip) for clip in frames])
        session = self.session("visual_encoder")
        padded = _pad_axis(frames, 0, session.fixed_size("frames", 0))
        return session.run({"frames": padded})["tokens"][: len(frames)]

    def denoise(
        self,
        tokens: np.ndarray,
        *,
        steps: int = 25,
        solver: str = "dpmpp_2m",
        guidance: float = 3.0,
        seed: Seed = None,
        initial: np.ndarray | None = None,
        step_noise: np.ndarray | None = None,
        token_mask: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Tokens ``[N, D]`` or ``[B, N, D]`` -> latents ``[B, C, T, F]`` float32 (B is 1 for tokens without a batch).

        Args:
            initial: ``[B, C, T, F]``, the starting noise, in place of the generator's.
            step_noise: ``[steps, B, C, T, F]``, the noise of each step, in place of the generator's.
            token_mask: ``[N]`` or ``[B, N]`` bool, True where a token is real; None where all are.

        Other arguments as in ``generate``. Every clip of a batch gets the noise of ``seed``, as it would alone.
        """
        tokens = np.asarray(tokens, np.float32)
        if tokens.ndim == 2:
            tokens = tokens[None]  # [B, N, D]
        if tokens.ndim != 3 or tokens.shape[-1] != self.model.token_width or 0 in tokens.shape:
            raise OptionError(f"tokens are {list(tokens.shape)}, the model takes [B, N, {self.model.token_width}]")
        batch, shape = len(tokens), self.model.latent_shape()[1:]
        mask = np.ones(tokens.shape[:2], bool) if token_mask is None else np.atleast_2d(np.asarray(token_mask, bool))
        _expect_shape("token_mask", mask, tokens.shape[:2])
        table = self._table(steps, solver, guidance)
        if initial is not None:
            _expect_shape("initial", initial, (batch, *shape))
        if step_noise is not None:
            _expect_shape("step_noise", step_noise, (steps, batch, *shape))

        session = self.session("denoiser_unguided" if guidance == 1.0 else "denoiser")
        tokens = _pad_axis(tokens, 1, session.fixed_size("tokens", 1))
        mask = _pad_axis(mask, 1, session.fixed_size("token_mask", 1))
        entropy = np.random.SeedSequence(_check_seed(seed)).entropy  # one draw for the whole batch when seed is None
        report = progress or _no_progress
        results = []
        chunks = list(_chunks(batch, session.fixed_size("latents", 0)))
        for done, (start, stop, size) in enumerate(chunks):
            noise = _Noise(entropy, (size, *shape))
            latents = noise.draw()
            if initial is not None:
                latents = _pad_axis(np.asarray(initial[start:stop], np.float32), 0, size)
            given = None if step_noise is None else _rows(step_noise[:, start:stop], table, size)
            results.append(
                denoise(
                    session,
                    table,
                    _pad_axis(tokens[start:stop], 0, size),
                    _pad_axis(mask[start:stop], 0, size),
                    latents,
                    given or noise.draws(),
                    guidance,
                    lambda n, done=done: report("denoise", done * steps + n, len(chunks) * steps),  # type: ignore[misc]
                )[: stop - start]
            )
        return np.concatenate(results)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents ``[B, C, T, F]`` -> log-mel ``[B, 1, frames, bins]`` float32, natural log of the mel magnitude."""
        return self._run_batch("vae_decoder", "latents", np.asarray(latents, np.float32))["mel"]

    def vocode(self, mel: np.ndarray) -> np.ndarray:
        """Log-mel -> wave ``[B, samples]`` float32 in [-1, 1].

        ``mel`` is ``[B, 1, frames, bins]`` as ``decode`` gives it, or ``[B, bins, frames]`` as vocoders are published.
        """
        mel = np.asarray(mel, np.float32)
        if mel.ndim == 3:
            mel = mel.transpose(0, 2, 1)[:, None]  # [B, 1, frames, bins]
        return self._run_batch("vocoder", "mel", mel)["wave"]

    def _run_batch(self, graph: str, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
        """Run a graph of one input over a batch, in pieces of the batch size the graph fixes."""
        session = self.session(graph)
        if array.ndim != len(session.inputs[name].shape) or 0 in array.shape:
            raise OptionError(f"{name} is {list(array.shape)}, the model takes {list(session.inputs[name].shape)}")
        pieces = [
            {
                key: value[: stop - start]
                for key, value in session.run({name: _pad_axis(array[start:stop], 0, size)}).items()
            }
            for start, stop, size in _chunks(len(array), session.fixed_size(name, 0))
        ]
        return {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}

    def _table(self, steps: int, solver: str, guidance: float) -> np.ndarray:
        """The solver's rows, all options checked."""
        if isinstance(guidance, bool) or not isinstance(guidance, Real) or not (0 <= guidance < math.inf):
            raise OptionError(f"guidance is {guidance!r}, a number of 0 or more is needed")
        return solver_table(solver, self.schedule, steps)


def generate(video: Path, *, bundle: Path | None = None, **options: Any) -> Audio:
    """Sound for a video in one call; see ``Pipeline.generate`` for the options. The bundle stays loaded between calls.

    vta_rt.generate("clip.mp4", seed=1).mux("clip.mp4", "clip_with_sound.mp4")
    """
    path = os.fspath(find_bundle() if bundle is None else bundle)
    manifest = os.path.join(path, MANIFEST)
    built = os.stat(manifest).st_mtime_ns if os.path.exists(manifest) else None
    return _pipeline(os.path.abspath(path) if built else path, built).generate(video, **options)


@lru_cache(maxsize=1)
def _pipeline(bundle: str, built: int | None) -> Pipeline:
    """The bundle of that path or hub id; another one once it was built anew."""
    return Pipeline(bundle)


def pad_tokens(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of clips of different lengths, each ``[N_i, D]`` -> ``[B, N, D]`` padded with zeros, mask ``[B, N]``."""
    longest = max(len(clip) for clip in clips)
    mask = np.arange(longest) < np.array([[len(clip)] for clip in clips])
    return np.stack([_pad_axis(clip, 0, longest) for clip in clips]), mask


class _Noise:
    """Gaussian noise for a batch in which every clip draws the same numbers, so that a clip does not depend on its batch."""

    def __init__(self, entropy: Any, shape: tuple[int, ...]) -> None:
        self._generator = np.random.default_rng(entropy)
        self._shape = shape

    def draw(self) -> np.ndarray:
        clip = self._generator.standard_normal(self._shape[1:], dtype=np.float32)
        return np.broadcast_to(clip, self._shape)

    def draws(self) -> Iterator[np.ndarray]:
        while True:
            yield self.draw()


def _rows(step_noise: np.ndarray, table: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The given noise of just those rows that add any: the loop asks for no other."""
    return (_pad_axis(noise, 0, size) for noise, row in zip(step_noise, table, strict=True) if row[-1] != 0.0)


def _chunks(batch: int, fixed: int | None) -> Iterator[tuple[int, int, int]]:
    """(start, stop, size) of the pieces a batch is run in: one piece, or pieces of the size a graph fixes."""
    size = fixed or batch
    for start in range(0, batch, size):
        yield start, min(start + size, batch), size


def _pad_axis(array: np.ndarray, axis: int, size: int | None) -> np.ndarray:
    """Zeros (False) appended along an axis up to ``size``; unchanged where ``size`` is None."""
    if size is None or array.shape[axis] >= size:
        return array  # too long is the session's to refuse, which names the graph and what it takes
    widths = [(0, size - length if index == axis else 0) for index, length in enumerate(array.shape)]
    return np.pad(array, widths)


def _expect_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if np.shape(array) != tuple(shape):
        raise OptionError(f"{name} is {list(np.shape(array))} where {list(shape)} is needed")


def _check_seed(seed: Seed) -> Seed:
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0):
        raise OptionError(f"seed is {seed!r}, a whole number of 0 or more is needed")
    return seed


def _no_progress(stage: str, done: int, total: int) -> None:
    pass
