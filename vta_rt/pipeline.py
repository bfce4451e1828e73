"""The stages put together: video -> frames -> tokens -> latents -> mel -> wave. Knows no file format of graphs or engines."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, TypeVar, overload

import numpy as np

from vta_rt import video as videos
from vta_rt.audio import Audio
from vta_rt.backends import Backend, choose
from vta_rt.backends.base import Session
from vta_rt.bundle import Bundle, find_bundle
from vta_rt.errors import EngineError, FallbackWarning, OptionError, VTAError
from vta_rt.manifest import MANIFEST
from vta_rt.schedule import solver_table
from vta_rt.stages import Stages, graphs, pad_tokens, token_mask

__all__ = ["Pipeline", "generate", "pad_tokens"]

Path = str | os.PathLike[str]
Seed = int | None
T = TypeVar("T")
Progress = Callable[[str, int, int], Any]
"""Called as ``progress(stage, done, total)``; stages are frames, encode, denoise, decode and vocode, in this order."""


class Pipeline:
    """A loaded bundle. Make one, use it for many videos, from any number of threads.

    Args:
        bundle: folder or model-hub id of a bundle; None for the newest in ``engines/``.
        backend: ``auto`` or the name of one (``vta_rt.backends.BACKENDS``).
        threads: cores the backend may use; None for all.
        capture: what of the denoising loop becomes a CUDA graph, on a GPU: ``loop`` (with TensorRT all of it, else a step
            at a time), ``step`` or ``none``. The sound is the same.

    ``backend`` is then one line that says what runs the graphs, and why.

    Raises:
        BundleError: the bundle cannot be found, is altered, or holds other graphs than it says.
        EngineError, DeviceError: the backend asked for cannot be had here.
        OptionError: an unknown backend, or threads below 1.
    """

    def __init__(
        self,
        bundle: Path | None = None,
        *,
        backend: str = "auto",
        threads: int | None = None,
        capture: str = "loop",
    ) -> None:
        self.bundle = Bundle(find_bundle() if bundle is None else bundle)
        self.model = self.bundle.manifest.model
        self.frames = self.bundle.manifest.frames
        self.schedule = self.bundle.manifest.schedule
        self._options = (backend, threads, capture)
        self._backend, self.backend = choose(self.bundle, *self._options)
        self._choosing = threading.Lock()

    @property
    def _sessions(self) -> dict[str, Session]:
        return self._backend.sessions

    def session(self, graph: str) -> Session:
        """The loaded graph of that name; loaded on first use, so that a run holds only the graphs it needs."""
        return self._backend.session(graph)

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
        table = self._table(steps, solver, guidance)  # these two before the work that comes first
        entropy = _entropy(seed)

        durations, pictures = [], []
        with self._backend.loading(graphs(guidance)):
            for index, path in enumerate(paths):
                report("frames", index, len(paths))
                durations.append(min(videos.probe(path).duration, self.model.seconds))
                pictures.append(
                    videos.sample_frames(
                        path, self.frames.rate, self.frames.size, fit=self.frames.fit, seconds=self.model.seconds
                    )
                )
                report("frames", index + 1, len(paths))

        def run(stages: Stages) -> list[np.ndarray]:
            stages.load(guidance)
            tokens, waves = [], []
            for index, frames in enumerate(pictures):
                report("encode", index, len(paths))
                tokens.append(stages.encode(frames))
                report("encode", index + 1, len(paths))
            latents = stages.denoise(tokens, token_mask(tokens), table, guidance, entropy, None, None, _steps(report))
            at_once = stages.together("vae_decoder", "latents")
            for start in range(0, len(paths), at_once):
                stop = min(start + at_once, len(paths))
                report("decode", start, len(paths))
                mels = stages.decode(latents[start:stop])
                report("decode", stop, len(paths))
                report("vocode", start, len(paths))
                waves += [stages.lane.get(wave) for wave in stages.vocode(mels)]
                report("vocode", stop, len(paths))
            return waves

        audios = []
        for path, duration, wave in zip(paths, durations, self._call(run), strict=True):
            if not np.isfinite(wave).all():
                raise VTAError(f"{path}: the model gave values that are not finite; a bundle at fp32 may help")
            audios.append(Audio(wave, self.model.sample_rate).trim(duration))
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
        return self._call(lambda stages: stages.lane.get(stages.encode(frames)))

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

        on_step = _steps(progress or _no_progress)
        entropy = _entropy(seed)
        return self._call(
            lambda stages: _stack(
                stages, stages.denoise(list(tokens), mask, table, guidance, entropy, initial, step_noise, on_step)
            )
        )

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents ``[B, C, T, F]`` -> log-mel ``[B, 1, frames, bins]`` float32, natural log of the mel magnitude."""
        latents = np.asarray(latents, np.float32)
        self._check_rank("vae_decoder", "latents", latents)
        return self._call(lambda stages: _stack(stages, stages.decode(list(latents))))

    def vocode(self, mel: np.ndarray) -> np.ndarray:
        """Log-mel -> wave ``[B, samples]`` float32 in [-1, 1].

        ``mel`` is ``[B, 1, frames, bins]`` as ``decode`` gives it, or ``[B, bins, frames]`` as vocoders are published.
        """
        mel = np.asarray(mel, np.float32)
        if mel.ndim == 3:
            mel = mel.transpose(0, 2, 1)[:, None]  # [B, 1, frames, bins]
        self._check_rank("vocoder", "mel", mel)
        return self._call(lambda stages: _stack(stages, stages.vocode(list(mel))))

    def _call(self, work: Callable[[Stages], T]) -> T:
        """Do ``work`` in a lane of the backend; again with the next backend if an engine turns out to be of no use."""
        while True:
            backend = self._backend
            try:
                with backend.lane() as lane:
                    return work(Stages(backend.session, lane, self.model))
            except EngineError as error:
                self._fall_back(backend, error)

    def _fall_back(self, failed: Backend, error: EngineError) -> None:
        """Go on with the next backend, which gives the same sound, unless this one was asked for by name."""
        with self._choosing:
            if self._backend is not failed:
                return  # another thread has done it
            if self._options[0] != "auto" or failed.name == "cpu":
                raise error
            self._backend, self.backend = choose(self.bundle, *self._options, below=failed.name, reasons=(str(error),))
        warnings.warn(f"from here on {self.backend}", FallbackWarning, stacklevel=4)

    def _check_rank(self, graph: str, tensor: str, array: np.ndarray) -> None:
        shape = next(spec.shape for spec in self.bundle.manifest.graphs[graph].inputs if spec.name == tensor)
        if array.ndim != len(shape) or 0 in array.shape:
            raise OptionError(f"{tensor} is {list(array.shape)}, the model takes {list(shape)}")

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


def _stack(stages: Stages, clips: Sequence[Any]) -> np.ndarray:
    return np.stack([stages.lane.get(clip) for clip in clips])


def _steps(report: Progress) -> Callable[[int, int], Any]:
    return lambda done, total: report("denoise", done, total)


def _entropy(seed: Seed) -> Any:
    """Of a seed's noise; one draw for a whole batch when it is None."""
    return np.random.SeedSequence(_check_seed(seed)).entropy


def _expect_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if np.shape(array) != tuple(shape):
        raise OptionError(f"{name} is {list(np.shape(array))} where {list(shape)} is needed")


def _check_seed(seed: Seed) -> Seed:
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0):
        raise OptionError(f"seed is {seed!r}, a whole number of 0 or more is needed")
    return seed


def _no_progress(stage: str, done: int, total: int) -> None:
    pass
