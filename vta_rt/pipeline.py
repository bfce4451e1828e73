"""The stages put together: video -> frames -> tokens -> latents -> mel -> wave. Knows no file format of graphs or engines."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeVar, overload

import numpy as np

from vta_rt import video as videos
from vta_rt.audio import Audio
from vta_rt.backends import Backend, choose
from vta_rt.backends.base import Session
from vta_rt.bundle import Bundle, find_bundle
from vta_rt.errors import EngineError, FallbackWarning, OptionError, VTAError, check_integer
from vta_rt.manifest import MANIFEST
from vta_rt.sampling import UNGUIDED, Sampling
from vta_rt.stages import Stages, graphs, pad_tokens, token_mask
from vta_rt.text import PromptTokenizer

__all__ = ["Pipeline", "generate", "pad_tokens"]

Path = str | os.PathLike[str]
Seed = int | None
T = TypeVar("T")
Prompts = str | list[str] | tuple[str, ...] | None
Progress = Callable[[str, int, int], Any]
_loading = threading.Lock()
"""Called as ``progress(stage, done, total)``; stages are frames, encode, denoise, decode and vocode, in this order."""


class Pipeline:
    """A loaded bundle. Make one, use it for many videos, from any number of threads.

    Args:
        bundle: folder or model-hub id of a bundle; None for the newest in ``engines/``.
        backend: ``auto`` or the name of one (``vta_rt.backends.BACKENDS``).
        threads: cores the backend may use; None for all.
        at_once: calls that will be made at the same time and share those cores. The sound is the same.
        capture: on a GPU, ``loop`` makes the denoising loop a CUDA graph (with TensorRT all of it, else a step at a time),
            ``none`` does not. The sound is the same.

    ``backend`` is then one line that says what runs the graphs, and why; engines that are there and do not suit the machine
    are a ``FallbackWarning`` with that line.

    Raises:
        BundleError: the bundle cannot be found, is altered, or holds other graphs than it says.
        EngineError, DeviceError: the backend asked for cannot be had here.
        OptionError: an unknown backend, or threads or at_once below 1.
    """

    def __init__(
        self,
        bundle: Path | None = None,
        *,
        backend: str = "auto",
        threads: int | None = None,
        at_once: int = 1,
        capture: str = "loop",
    ) -> None:
        self.bundle = Bundle(find_bundle() if bundle is None else bundle)
        self.model = self.bundle.manifest.model
        self.frames = self.bundle.manifest.frames
        self.schedule = self.bundle.manifest.schedule
        self._options = (backend, threads, at_once, capture)
        self._backend, self.backend = choose(self.bundle, *self._options)
        if backend == "auto" and self.bundle.manifest.engines and self._backend.name != "tensorrt":
            warnings.warn(f"engines are not used: {self.backend}", FallbackWarning, stacklevel=2)
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
        video: Path | None = None,
        *,
        text: str | None = None,
        negative: str | None = None,
        seed: Seed = 0,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        spacing: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        progress: Progress | None = None,
    ) -> Audio: ...
    @overload
    def generate(
        self,
        video: list[Path] | tuple[Path, ...] | None = None,
        *,
        text: Prompts = None,
        negative: Prompts = None,
        seed: Seed = 0,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        spacing: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        progress: Progress | None = None,
    ) -> list[Audio]: ...
    def generate(
        self,
        video: Path | list[Path] | tuple[Path, ...] | None = None,
        *,
        text: Prompts = None,
        negative: Prompts = None,
        seed: Seed = 0,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        spacing: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        progress: Progress | None = None,
    ) -> Audio | list[Audio]:
        """Sound for a video, as long as the video or as the model's window, whichever is shorter; or for a prompt alone.

        Args:
            video: a file, or several: each gets the sound it would get alone. None: the prompt alone, for a whole window.
            text: a prompt, or one for each video; without videos, several prompts make several sounds. A model trained with
                prompts is needed; so for ``negative``.
            negative: a prompt for what is not to be heard: guidance leads away from it, instead of from nothing.
            seed: of the noise; the same seed gives the same sound, None another one each time.
            steps: denoiser calls, 1 to the schedule's training timesteps.
            solver: a row of ``vta_rt.schedule.SOLVERS``: ``ddpm``, ``ddim``, ``dpmpp_2m``, ``dpmpp_2m_sde``, ``unipc``;
                ``lcm`` for distilled models.
            guidance: classifier-free guidance scale, 0 or more; 1 runs the unguided graph at half the cost.
            spacing: of the timesteps: ``leading``, ``linspace``, ``trailing``, ``karras``.
            guidance_interval: noise levels sigma / alpha between which steps are guided (``vta_rt.sampling``); those
                outside cost half.
                For these five None is the bundle's own, which ``bundle.manifest.sampling`` holds.
            progress: ``progress(stage, done, total)``, called as work gets done.

        Raises:
            VideoError: a file cannot be opened or has no pictures.
            OptionError: a value outside what is allowed, or prompts for a model that takes none.
        """
        many = isinstance(video, (list, tuple)) or (video is None and isinstance(text, (list, tuple)))
        paths = list(video) if isinstance(video, (list, tuple)) else [video]
        if video is None:
            paths *= len(text) if isinstance(text, (list, tuple)) else 1
        if not paths or (video is None and text is None):
            raise OptionError("no video given, at least one is needed, or a prompt (text)")
        report = progress or _no_progress
        how = self._sampling(steps, solver, guidance, spacing, guidance_interval)
        table, scales = how.plan(self.schedule)  # this and the next before the work that comes first
        entropy = _entropy(seed)
        prompts = self._token_ids("text", text, len(paths))
        negatives = self._token_ids("negative", negative, len(paths))
        _check_negative(negative, scales)

        needed = graphs(scales, _encoders(paths, [*prompts, *negatives]))
        durations: list[float] = []
        pictures: list[np.ndarray | None] = []
        with self._backend.loading(needed):
            for index, path in enumerate(paths):
                if path is None:
                    durations.append(self.model.seconds)
                    pictures.append(None)
                    continue
                report("frames", index, len(paths))
                durations.append(min(videos.probe(path).duration, self.model.seconds))
                pictures.append(videos.frames_of(path, self.frames, self.model.seconds))
                report("frames", index + 1, len(paths))

        def run(stages: Stages) -> list[np.ndarray]:
            stages.load(needed)
            tokens, waves = [], []
            for index, (frames, prompt) in enumerate(zip(pictures, prompts, strict=True)):
                report("encode", index, len(paths))
                tokens.append(stages.condition(frames, prompt))
                report("encode", index + 1, len(paths))
            away = [None if prompt is None else stages.encode_text(prompt, 1) for prompt in negatives]
            latents = stages.denoise(
                tokens, token_mask(tokens), table, scales, entropy, None, None, _steps(report), away
            )
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

        audios, rate = [], self.model.sample_rate
        for path, duration, wave in zip(paths, durations, self._call(run), strict=True):
            if not np.isfinite(wave).all():
                name = "sound for the prompt" if path is None else path
                raise VTAError(f"{name}: the model gave values that are not finite; a bundle at fp32 may help")
            audios.append(Audio(wave, rate).trim(max(duration, 1 / rate)))
        return audios if many else audios[0]

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Frames ``[T, H, W, 3]`` uint8 -> tokens ``[N, D]`` float32; ``[B, T, H, W, 3]`` -> ``[B, N, D]``.

        N is T for encoders that give a token per frame; ``frames.token_count(T)`` for all.

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

    def encode_text(self, texts: str | list[str] | tuple[str, ...]) -> np.ndarray:
        """A prompt -> tokens ``[T, D]`` float32, its vector for each frame of a window; several -> ``[B, T, D]``.

        They condition ``denoise`` alone, as its ``negative``, or joined on axis -2 before the frames' of ``encode``.

        Raises:
            OptionError: the model takes no prompts, or one is empty or no text.
        """
        prompts = list(texts) if isinstance(texts, (list, tuple)) else [texts]
        ids = [self._tokenizer(prompt) for prompt in prompts]
        if not ids:
            raise OptionError("no prompt given, at least one is needed")
        tokens = self._call(
            lambda stages: np.stack([stages.lane.get(stages.condition(None, prompt)) for prompt in ids])
        )
        return tokens if isinstance(texts, (list, tuple)) else tokens[0]

    def denoise(
        self,
        tokens: np.ndarray,
        *,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        spacing: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: Seed = None,
        initial: np.ndarray | None = None,
        step_noise: np.ndarray | None = None,
        token_mask: np.ndarray | None = None,
        negative: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Tokens ``[N, D]`` or ``[B, N, D]`` -> latents ``[B, C, T, F]`` float32 (B is 1 for tokens without a batch).

        Args:
            initial: ``[B, C, T, F]``, the starting noise, in place of the generator's.
            step_noise: ``[steps, B, C, T, F]``, the noise of each step, in place of the generator's.
            token_mask: ``[N]`` or ``[B, N]`` bool, True where a token is real; None where all are.
            negative: ``[M, D]`` or ``[B, M, D]``, what the unconditional branch attends to, in place of zeros; a model that
                takes prompts is needed.

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
        how = self._sampling(steps, solver, guidance, spacing, guidance_interval)
        table, scales = how.plan(self.schedule)
        away = self._negative(negative, batch, scales)
        if initial is not None:
            _expect_shape("initial", initial, (batch, *shape))
        if step_noise is not None:
            _expect_shape("step_noise", step_noise, (len(table), batch, *shape))

        on_step = _steps(progress or _no_progress)
        entropy = _entropy(seed)
        return self._call(
            lambda stages: _stack(
                stages, stages.denoise(list(tokens), mask, table, scales, entropy, initial, step_noise, on_step, away)
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
                    return work(Stages(backend.session, lane, self.model, self.frames))
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

    def _sampling(
        self,
        steps: int | None,
        solver: str | None,
        guidance: float | None,
        spacing: str | None,
        guidance_interval: tuple[float, float] | None,
    ) -> Sampling:
        """What was asked for, and of what was not the bundle's own."""
        return self.bundle.manifest.sampling.but(
            steps=steps, solver=solver, guidance=guidance, spacing=spacing, guidance_interval=guidance_interval
        )

    @cached_property
    def _tokenizer(self) -> PromptTokenizer:
        return self.bundle.tokenizer()

    def _token_ids(self, name: str, prompts: Prompts, count: int) -> list[np.ndarray | None]:
        """Ids of the prompt of each of ``count`` sounds: the one there is, or each its own."""
        if prompts is None:
            return [None] * count
        if not isinstance(prompts, (list, tuple)):
            return [self._tokenizer(prompts)] * count
        if len(prompts) != count:
            raise OptionError(f"{name} has {len(prompts)} prompts for {count} sounds; give one, or one for each")
        return [self._tokenizer(prompt) for prompt in prompts]

    def _negative(self, tokens: np.ndarray | None, batch: int, scales: np.ndarray) -> list[np.ndarray]:
        """Tokens of the unconditional branch, clip by clip."""
        _check_negative(tokens, scales)
        if tokens is None:
            return []
        if self.model.text is None:
            raise OptionError(f"{self.bundle.path}: takes no prompts, and so nothing negative")
        array = np.asarray(tokens, np.float32)
        array = array[None].repeat(batch, 0) if array.ndim == 2 else array
        if array.ndim != 3 or 0 in array.shape:
            raise OptionError(f"negative is {list(np.shape(tokens))} where [B, M, {self.model.token_width}] is needed")
        _expect_shape("negative", array, (batch, array.shape[1], self.model.token_width))
        return list(array)


def generate(video: Path | None = None, *, bundle: Path | None = None, **options: Any) -> Audio:
    """Sound for a video in one call; see ``Pipeline.generate`` for the options. The bundle stays loaded between calls.

    vta_rt.generate("clip.mp4", seed=1).mux("clip.mp4", "clip_with_sound.mp4")
    """
    path = os.fspath(find_bundle() if bundle is None else bundle)
    manifest = os.path.join(path, MANIFEST)
    built = os.stat(manifest).st_mtime_ns if os.path.exists(manifest) else None
    with _loading:  # the first calls may come at the same time; one of them loads it
        pipeline = _pipeline(os.path.abspath(path) if built else path, built)
    return pipeline.generate(video, **options)


@lru_cache(maxsize=1)
def _pipeline(bundle: str, built: int | None) -> Pipeline:
    """The bundle of that path or hub id; another one once it was built anew."""
    return Pipeline(bundle)


def _encoders(videos: Sequence[Path | None], prompts: Sequence[np.ndarray | None]) -> list[str]:
    """The graphs that make tokens of what there is."""
    given: dict[str, Sequence[Any]] = {"visual_encoder": videos, "text_encoder": prompts}
    return [graph for graph, inputs in given.items() if any(each is not None for each in inputs)]


def _check_negative(negative: object, scales: np.ndarray) -> None:
    if negative is not None and (scales == UNGUIDED).all():
        raise OptionError("guidance is 1, which leads away from nothing; a negative prompt needs more")


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
    if seed is not None:
        check_integer("seed", seed, 0)
    return seed


def _no_progress(stage: str, done: int, total: int) -> None:
    pass
