"""A bundle ready to run: video -> frames -> tokens -> latents -> mel -> wave."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple, Self, TypeGuard, TypeVar, Unpack, cast, overload

import numpy as np

from vta_rt.audio import Audio
from vta_rt.backends import Backend, choose
from vta_rt.backends.base import Session
from vta_rt.bundle import Bundle, find_bundle
from vta_rt.denoise import Noise
from vta_rt.errors import EngineError, FallbackWarning, OptionError, VTAError, check_integer, describe
from vta_rt.files import StrPath
from vta_rt.film import Film
from vta_rt.manifest import MANIFEST
from vta_rt.sampling import SamplingOptions, SamplingPlan
from vta_rt.stages import Stages, graphs, pad_tokens
from vta_rt.stopping import NEVER, Stop
from vta_rt.text import PromptTokenizer
from vta_rt.video import SOURCES, Frames, Video, VideoSource, frames_of, read_frames
from vta_rt.windows import FilmNoise, Windows, check_section, section_samples

__all__ = ["Pipeline", "generate", "pad_tokens"]

LOGGER = logging.getLogger("vta_rt")
Seed = int | None
T = TypeVar("T")
Prompts = str | Sequence[str] | None
VideoInput = VideoSource | Frames | np.ndarray
"""What sound is made for: a path, bytes, an open binary file, a Video, Frames, or an array of frames."""
ProgressCallback = Callable[[str, int, int], Any]
"""Called as ``progress(stage, done, total)``; stages are frames, encode, denoise, decode and vocode, in this order.
For a video that is longer than the model's window they are frames and windows, whose total is that of the whole video."""
QUIET = 1e-3  # of full scale, -60 dBFS; a sound whose peak is below is hardly heard
_loading = threading.Lock()


class Clip(NamedTuple):
    """What a call makes sound for."""

    name: str  # for messages
    frames: np.ndarray | None  # that the model takes; None for a prompt alone, and for a film
    duration: float  # seconds of sound
    film: Video | Frames | None = None  # what is longer than the model's window, and read as it is needed


@dataclass(frozen=True)
class Call:
    """The arguments of a call, checked."""

    videos: list[VideoSource | Frames | None]  # None for a prompt alone
    prompts: list[np.ndarray | None]  # token ids, of each video
    negative_prompts: list[np.ndarray | None]
    plan: SamplingPlan
    noise: Noise
    section: tuple[float, float]  # seconds
    progress: ProgressCallback | None
    stop: Stop

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs that it needs."""
        return graphs(self.plan.guidance_scales, _needed_encoders(self.videos, [*self.prompts, *self.negative_prompts]))

    def report(self, stage: str, done: int, total: int) -> None:
        self.stop.check()
        if self.progress is not None:
            self.progress(stage, done, total)


class CallOptions(SamplingOptions, total=False):
    """The keyword arguments of ``Pipeline.generate`` that are the same whatever sound is made for."""

    fps: float | None
    times: Sequence[float] | np.ndarray | None
    start: float | None
    end: float | None
    seed: Seed
    progress: ProgressCallback | None
    cancel: threading.Event | None
    timeout: float | None


CALL_OPTIONS = tuple(CallOptions.__annotations__.keys() - SamplingOptions.__annotations__.keys())


class Pipeline:
    """An opened bundle. One is enough for many videos and any number of threads. In a ``with`` block it is closed at its end.

    The attribute ``backend`` says in one line what runs the graphs and why. If the bundle has engines but none suits this
    machine, the same line is a ``FallbackWarning``.

    Args:
        bundle: folder or model-hub id of a bundle; None for the newest in ``engines/``.
        backend: one of ``vta_rt.backends.BACKENDS``; ``auto`` picks the fastest that this machine has.
        threads: processor cores that the backend may use; None for all.
        at_once: how many calls will run at the same time and share those cores; does not change the sound.
        capture: on a GPU, ``loop`` captures the denoising loop in a CUDA graph (all of it with TensorRT, else one step at a
            time) and ``none`` does not; does not change the sound.

    Raises:
        BundleError: the bundle cannot be found, was altered, or its graphs are not those of its manifest.
        EngineError, DeviceError: the backend that was asked for is not available.
        OptionError: an unknown backend, or threads or at_once below 1.
    """

    def __init__(
        self,
        bundle: StrPath | None = None,
        *,
        backend: str = "auto",
        threads: int | None = None,
        at_once: int = 1,
        capture: str = "loop",
    ) -> None:
        self.bundle = Bundle(find_bundle(bundle))
        self.model = self.bundle.manifest.model
        self.frames = self.bundle.manifest.frames
        self.schedule = self.bundle.manifest.schedule
        self._options = (backend, threads, at_once, capture)
        self._backend: Backend | None  # None once it was closed
        self._backend, self.backend = choose(self.bundle, *self._options)
        if backend == "auto" and self.bundle.manifest.engines and self._backend.name != "tensorrt":
            warnings.warn(f"engines are not used: {self.backend}", FallbackWarning, stacklevel=2)
        self._choosing = threading.Lock()

    @property
    def loaded_graphs(self) -> frozenset[str]:
        """Names of the graphs that are loaded."""
        return frozenset(self._open_backend().sessions)

    def session(self, graph: str) -> Session:
        """The graph of that name, loaded when it is first asked for."""
        return self._open_backend().session(graph)

    def run(self, work: Callable[[Stages], T], *, stop: Stop = NEVER) -> T:
        """Call ``work`` with the stages of one call of the backend; what it returns must not be in the stages' lane.

        If an engine turns out to be unusable, ``work`` is called again with the next backend.
        """
        while True:
            backend = self._open_backend()
            try:
                with backend.lane() as lane:
                    lane.stop = stop
                    return work(Stages(backend.session, lane, self.model, self.frames))
            except EngineError as error:
                self._fall_back(backend, error)

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        video: VideoInput | None = None,
        *,
        text: str | None = None,
        negative_prompt: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Audio: ...
    @overload
    def generate(
        self,
        video: Sequence[VideoInput],
        *,
        text: Prompts = None,
        negative_prompt: Prompts = None,
        **options: Unpack[CallOptions],
    ) -> list[Audio]: ...
    @overload
    def generate(
        self,
        video: None = None,
        *,
        text: Sequence[str],
        negative_prompt: Prompts = None,
        **options: Unpack[CallOptions],
    ) -> list[Audio]: ...
    def generate(
        self,
        video: VideoInput | Sequence[VideoInput] | None = None,
        *,
        text: Prompts = None,
        negative_prompt: Prompts = None,
        **options: Unpack[CallOptions],
    ) -> Audio | list[Audio]:
        """Make sound for a video, or for a prompt alone.

        The sound is as long as the video. One that is longer than the model's window, ``model.seconds``, is made in
        windows that overlap and agree with each other (``vta_rt.film``).

        Args:
            video: the path of a video file, its bytes, a binary file that is open, a ``vta_rt.Video``, frames in memory
                (``[T, H, W, 3]`` uint8 RGB of any size, with ``fps`` or ``times``) or ``vta_rt.Frames``; or a sequence of
                them, of which each gets the sound that it would get alone. None makes sound of the model's full length from
                ``text`` alone.
            text: a prompt, or one for each video; without a video, several prompts make several sounds. Needs a model
                that was trained with prompts, as does ``negative_prompt``.
            negative_prompt: what should not be heard, one prompt or one for each video; guidance leads away from it.
            fps: of frames that are given as arrays, how many there are a second.
            times: instead, when each of them appears, in seconds; see ``vta_rt.Frames``.
            start, end: seconds of a section, which is made alone; it is, to the bit, that part of the whole sound. None for
                the video's beginning and its end. ``Audio.splice`` puts a section into a sound.
            seed: of the noise. The same seed gives the same sound; None gives another one at each call.
            progress: called as ``progress(stage, done, total)`` as the work proceeds.
            cancel: the call ends with a ``CancelledError`` soon after another thread has set this event.
            timeout: seconds after which the call ends with a ``TimedOutError``.
            sampling: the fields of ``vta_rt.sampling.Sampling``: ``steps``, ``solver``, ``guidance``, ``spacing``,
                ``guidance_interval``. Those left out, or None, come from the bundle, ``bundle.manifest.sampling``.

        Raises:
            VideoError: a file cannot be opened or has no frames.
            OptionError: a value outside what is allowed, or a prompt for a model that takes none.
            StoppedError: it was cancelled, or its time was up.
        """
        many = _is_sequence(video) or (video is None and _is_sequence(text))
        call = self._check_call(video, text, negative_prompt, options)
        with ExitStack() as opened:
            clips = self._read_clips(call, opened)
            whole = iter(self._generate_clips(call, clips))
            audios = []
            for index, clip in enumerate(clips):
                audio = next(whole) if clip.film is None else self._generate_film(call, index, clip)
                if call.videos[index] is not self._blank:
                    _warn_if_quiet(clip, audio.peak)
                audios.append(audio)
        return audios if many else audios[0]

    def stream(
        self,
        video: VideoInput,
        *,
        text: str | None = None,
        negative_prompt: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Generator[Audio, None, None]:
        """The sound of ``generate`` in pieces, each as soon as it is final; joined they are that sound to the bit.

        Memory does not grow with the video. What is wrong with the arguments is raised now, and with the video when the first
        piece is asked for. Close the iterator to end early; a timeout counts from now.

        Args: as for ``generate``, for one video.
        """
        call = self._check_call(video, text, negative_prompt, options)
        if len(call.videos) != 1 or call.videos[0] is None:
            raise OptionError(f"video is {describe(video)}, {SOURCES}")
        return self._stream(call)

    def _stream(self, call: Call) -> Generator[Audio, None, None]:
        with ExitStack() as opened:
            clip, peak = self._read_clips(call, opened)[0], 0.0
            film = clip.film is not None
            for chunk in self._film_chunks(call, 0, clip) if film else self._generate_clips(call, [clip]):
                peak = max(peak, chunk.peak)
                yield chunk
            _warn_if_quiet(clip, peak)

    def _check_call(
        self,
        video: VideoInput | Sequence[VideoInput] | None,
        text: Prompts,
        negative_prompt: Prompts,
        options: CallOptions,
    ) -> Call:
        given: dict[str, Any] = {**options}
        own = {name: given.pop(name, None) for name in CALL_OPTIONS}
        sampling = cast(SamplingOptions, given)
        negative_prompt = _accept_old_name(sampling, "negative_prompt", negative_prompt)
        stop = Stop(own["cancel"], own["timeout"])
        videos = [_as_source(each, own["fps"], own["times"]) for each in (video if _is_sequence(video) else [video])]
        if video is None:
            videos *= len(text) if _is_sequence(text) else 1
        if not videos or (video is None and text is None):
            raise OptionError("no video given; at least one video, or a prompt (text), is needed")
        if None in videos and video is not None:
            raise OptionError(f"video is None, {SOURCES}")
        progress = own["progress"]
        if progress is not None and not callable(progress):
            raise OptionError(f"progress is {describe(progress)}, a function (stage, done, total) is needed")
        plan = self._plan(sampling)
        _check_guided(plan, negative_prompt)
        return Call(
            videos,
            self._token_ids("text", text, len(videos)),
            self._token_ids("negative_prompt", negative_prompt, len(videos)),
            plan,
            _seeded_noise(options.get("seed", 0)),
            check_section(own["start"], own["end"]),
            progress,
            stop,
        )

    def _read_clips(self, call: Call, opened: ExitStack) -> list[Clip]:
        """What the model takes of each video; graphs are loaded meanwhile."""
        clips = [Clip("sound for the prompt", None, self.model.seconds)] * len(call.videos)
        with self._open_backend().loading(call.graphs):
            for index, source in enumerate(call.videos):
                if source is not None:
                    call.report("frames", index, len(call.videos))
                    clips[index] = self._read_clip(source, call.stop, opened)
                    self._section_samples(call, clips[index])
                    call.report("frames", index + 1, len(call.videos))
        return clips

    def _generate_clips(self, call: Call, clips: Sequence[Clip]) -> list[Audio]:
        """The sounds of those that are no longer than a window, in a batch."""
        places = [index for index, clip in enumerate(clips) if clip.film is None]
        report, plan = call.report, call.plan

        def run(stages: Stages) -> list[np.ndarray]:
            stages.load(call.graphs)
            tokens, waves, count = [], [], len(places)
            for number, index in enumerate(places):
                report("encode", number, count)
                tokens.append(stages.condition(clips[index].frames, call.prompts[index]))
                report("encode", number + 1, count)
            negatives = [call.negative_prompts[index] for index in places]
            negative_tokens = [None if ids is None else stages.encode_text(ids, 1) for ids in negatives]
            latents = stages.denoise(
                plan, call.noise, tokens, negative_tokens=negative_tokens, on_step=partial(report, "denoise")
            )
            at_once = stages.max_batch("vae_decoder", "latents")
            for start in range(0, count, at_once):
                end = min(start + at_once, count)
                report("decode", start, count)
                mels = stages.decode(latents[start:end])
                report("decode", end, count)
                report("vocode", start, count)
                waves += [stages.lane.get(wave) for wave in stages.vocode(mels)]
                report("vocode", end, count)
            return waves

        audios, rate = [], self.model.sample_rate
        for index, wave in zip(places, self.run(run, stop=call.stop) if places else [], strict=True):
            self._expect_sound(clips[index], wave)
            audio = Audio(wave, rate).trim(max(clips[index].duration, 1 / rate))
            audios.append(Audio(audio.samples[slice(*self._section_samples(call, clips[index]))], rate))
        return audios

    def _generate_film(self, call: Call, index: int, clip: Clip) -> Audio:
        chunks = [chunk.samples for chunk in self._film_chunks(call, index, clip)]
        return Audio(np.concatenate(chunks), self.model.sample_rate)

    def _film_chunks(self, call: Call, index: int, clip: Clip) -> Iterator[Audio]:
        assert clip.film is not None
        windows = Windows(self.model, self.frames, clip.duration)
        self.run(lambda stages: stages.load(call.graphs))
        with closing(read_frames(clip.film, self.frames, stop=call.stop)) as frames:
            film = Film(
                partial(self.run, stop=call.stop),
                windows,
                call.plan,
                FilmNoise(call.noise.entropy, self.model),
                frames,
                call.prompts[index],
                call.negative_prompts[index],
                partial(call.report, "windows"),
            )
            for chunk in film.chunks(*self._section_samples(call, clip)):
                self._expect_sound(clip, chunk)
                yield Audio(chunk, self.model.sample_rate)

    def _section_samples(self, call: Call, clip: Clip) -> tuple[int, int]:
        """The first sample that is asked for, and the one after the last."""
        rate = self.model.sample_rate
        return section_samples(call.section, max(1, round(clip.duration * rate)), rate)

    def _expect_sound(self, clip: Clip, wave: np.ndarray) -> None:
        if not np.isfinite(wave).all():
            raise VTAError(f"{clip.name}: the model gave values that are not finite; a bundle at fp32 may help")

    def warm_up(self, **sampling: Unpack[SamplingOptions]) -> None:
        """Load every graph that a call needs and run it once, so that the first call is as fast as later ones.

        Args:
            sampling: as those calls will have, for a backend that captures a loop of so many steps.
        """
        self.generate(self._blank, text="warm up" if self.model.text else None, **sampling)

    @cached_property
    def _blank(self) -> Frames:
        """A video of the model's full length that shows nothing."""
        size, count = self.frames.size, self.model.frame_count(self.frames)
        return Frames(np.zeros((count, size, size, 3), np.uint8), self.frames.rate)

    def close(self) -> None:
        """Give the graphs and what they hold back; calls that are under way end as usual, later ones are refused."""
        with self._choosing:
            self._backend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_backend(self) -> Backend:
        backend = self._backend
        if backend is None:
            raise VTAError(f"{self.bundle.path}: this pipeline was closed")
        return backend

    def _read_clip(self, source: VideoSource | Frames, stop: Stop, opened: ExitStack) -> Clip:
        if isinstance(source, Frames):
            duration = source.duration
            if self._is_film(duration):
                return Clip(str(source), None, duration, source)
            return Clip(str(source), frames_of(source, self.frames, self.model.seconds, stop=stop), duration)
        video = opened.enter_context(Video.open(source))
        video.stop = stop
        try:
            duration = video.info.duration
            if self._is_film(duration):
                return Clip(str(video), None, duration, video)
            return Clip(str(video), frames_of(video, self.frames, self.model.seconds, stop=stop), duration)
        finally:
            video.stop = NEVER
            video.close()  # generating takes longer than reading

    def _is_film(self, duration: float) -> bool:
        return len(Windows(self.model, self.frames, duration)) > 1

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Frames ``[T, H, W, 3]`` uint8 -> tokens ``[N, D]`` float32; ``[B, T, H, W, 3]`` -> ``[B, N, D]``.

        N is T for encoders that give a token per frame; ``frames.token_count(T)`` for all.

        Raises:
            OptionError: another shape or type.
        """
        size = self.frames.size
        taken = f"the model takes uint8 [T, {size}, {size}, 3] or [B, T, {size}, {size}, 3]"
        if not isinstance(frames, np.ndarray):
            raise OptionError(f"frames is {describe(frames)}, {taken}")
        if (
            frames.ndim not in (4, 5)
            or frames.shape[-3:] != (size, size, 3)
            or frames.dtype != np.uint8
            or 0 in frames.shape
        ):
            raise OptionError(f"frames are {frames.dtype} {list(frames.shape)}, {taken}")
        if frames.ndim == 5:
            return np.stack([self.encode(clip) for clip in frames])
        return _expect_finite("tokens", self.run(lambda stages: stages.lane.get(stages.encode(frames))))

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """A prompt -> tokens ``[T, D]`` float32, its vector for each frame of a window; several -> ``[B, T, D]``.

        ``denoise`` takes them alone, as its ``negative_tokens``, or joined on axis -2 before those of ``encode``.

        Raises:
            OptionError: the model takes no prompts, or a prompt is empty or no string.
        """
        prompts: list[Any] = list(texts) if _is_sequence(texts) else [texts]
        ids = [self._tokenizer(prompt) for prompt in prompts]
        if not ids:
            raise OptionError("no prompt given; at least one is needed")
        tokens = self.run(lambda stages: np.stack([stages.lane.get(stages.condition(None, prompt)) for prompt in ids]))
        return tokens if _is_sequence(texts) else tokens[0]

    def denoise(
        self,
        tokens: np.ndarray,
        *,
        seed: Seed = None,
        initial: np.ndarray | None = None,
        step_noise: np.ndarray | None = None,
        token_mask: np.ndarray | None = None,
        negative_tokens: np.ndarray | None = None,
        progress: ProgressCallback | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> np.ndarray:
        """Tokens ``[N, D]`` or ``[B, N, D]`` -> latents ``[B, C, T, F]`` float32 (B is 1 for tokens without a batch).

        Args:
            seed: of the noise, which is the same for every clip of a batch, as if it were alone.
            initial: ``[B, C, T, F]``, the starting noise, instead of the seed's.
            step_noise: ``[steps, B, C, T, F]``, the noise of each step, instead of the seed's.
            token_mask: ``[N]`` or ``[B, N]`` bool, True where a token is real; None if all are.
            negative_tokens: ``[M, D]`` or ``[B, M, D]``, what the unconditional branch attends to instead of zeros; needs
                a model that takes prompts.
            progress, sampling: as in ``generate``.
        """
        negative_tokens = _accept_old_name(sampling, "negative_tokens", negative_tokens)
        tokens = _as_floats("tokens", tokens)
        if tokens.ndim == 2:
            tokens = tokens[None]  # [B, N, D]
        if tokens.ndim != 3 or tokens.shape[-1] != self.model.token_width or 0 in tokens.shape:
            raise OptionError(f"tokens are {list(tokens.shape)}, the model takes [B, N, {self.model.token_width}]")
        batch, shape = len(tokens), self.model.latent_shape()[1:]
        mask = np.ones(tokens.shape[:2], bool) if token_mask is None else np.atleast_2d(_as_mask(token_mask))
        _expect_shape("token_mask", mask, tokens.shape[:2])
        plan = self._plan(sampling)
        _check_guided(plan, negative_tokens)
        negative = self._split_negative(negative_tokens, batch)
        if initial is not None:
            initial = _as_floats("initial", initial)
            _expect_shape("initial", initial, (batch, *shape))
        if step_noise is not None:
            step_noise = _as_floats("step_noise", step_noise)
            _expect_shape("step_noise", step_noise, (len(plan), batch, *shape))
        noise = replace(_seeded_noise(seed), initial=initial, steps=step_noise)
        on_step = partial(progress or (lambda stage, done, total: None), "denoise")
        latents = self.run(
            lambda stages: _stack(
                stages, stages.denoise(plan, noise, list(tokens), mask=mask, negative_tokens=negative, on_step=on_step)
            )
        )
        return _expect_finite("latents", latents)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents ``[B, C, T, F]`` -> log-mel ``[B, 1, frames, bins]`` float32, natural log of the mel magnitude."""
        latents = _as_floats("latents", latents)
        self._check_rank("vae_decoder", "latents", latents)
        return _expect_finite("mel", self.run(lambda stages: _stack(stages, stages.decode(list(latents)))))

    def vocode(self, mel: np.ndarray) -> np.ndarray:
        """Log-mel -> wave ``[B, samples]`` float32 in [-1, 1].

        ``mel`` is ``[B, 1, frames, bins]`` as ``decode`` gives it, or ``[B, bins, frames]`` as vocoders are published.
        """
        mel = _as_floats("mel", mel)
        if mel.ndim == 3:
            mel = mel.transpose(0, 2, 1)[:, None]  # [B, 1, frames, bins]
        self._check_rank("vocoder", "mel", mel)
        return _expect_finite("wave", self.run(lambda stages: _stack(stages, stages.vocode(list(mel)))))

    def _fall_back(self, failed: Backend, error: EngineError) -> None:
        """Switch to the next backend, which gives the same sound, unless the failed one was asked for by name."""
        with self._choosing:
            if self._backend is not failed:
                return  # another thread has done it
            if self._backend is None or self._options[0] != "auto" or failed.name == "cpu":
                raise error
            self._backend, self.backend = choose(self.bundle, *self._options, below=failed.name, reasons=(str(error),))
        warnings.warn(f"from here on {self.backend}", FallbackWarning, stacklevel=4)

    def _check_rank(self, graph: str, tensor: str, array: np.ndarray) -> None:
        shape = next(spec.shape for spec in self.bundle.manifest.graphs[graph].inputs if spec.name == tensor)
        if array.ndim != len(shape) or 0 in array.shape:
            raise OptionError(f"{tensor} is {list(array.shape)}, the model takes {list(shape)}")

    def _plan(self, options: SamplingOptions) -> SamplingPlan:
        return self.bundle.manifest.sampling.replace(**options).plan(self.schedule)

    @cached_property
    def _tokenizer(self) -> PromptTokenizer:
        return self.bundle.tokenizer()

    def _token_ids(self, name: str, prompts: Prompts, count: int) -> list[np.ndarray | None]:
        """Token ids of the prompt of each of ``count`` sounds; a single prompt is for all of them."""
        if prompts is None:
            return [None] * count
        if not _is_sequence(prompts):
            return [self._tokenizer(cast(str, prompts))] * count
        if len(prompts) != count:
            raise OptionError(f"{name} has {len(prompts)} prompts for {count} sounds; give one, or one for each")
        return [self._tokenizer(prompt) for prompt in prompts]

    def _split_negative(self, tokens: np.ndarray | None, batch: int) -> list[np.ndarray]:
        """Tokens of the unconditional branch, ``[M, D]`` for each clip; none where ``tokens`` is None."""
        if tokens is None:
            return []
        if self.model.text is None:
            raise OptionError(f"{self.bundle.path}: takes no prompts, and so no negative_tokens")
        array = _as_floats("negative_tokens", tokens)
        array = array[None].repeat(batch, 0) if array.ndim == 2 else array
        if array.ndim != 3 or 0 in array.shape:
            raise OptionError(
                f"negative_tokens is {list(np.shape(tokens))} where [B, M, {self.model.token_width}] is needed"
            )
        _expect_shape("negative_tokens", array, (batch, array.shape[1], self.model.token_width))
        return list(array)


@overload
def generate(  # type: ignore[overload-overlap]
    video: VideoInput | None = None,
    *,
    bundle: StrPath | None = None,
    text: str | None = None,
    negative_prompt: str | None = None,
    **options: Unpack[CallOptions],
) -> Audio: ...
@overload
def generate(
    video: Sequence[VideoInput],
    *,
    bundle: StrPath | None = None,
    text: Prompts = None,
    negative_prompt: Prompts = None,
    **options: Unpack[CallOptions],
) -> list[Audio]: ...
@overload
def generate(
    video: None = None,
    *,
    bundle: StrPath | None = None,
    text: Sequence[str],
    negative_prompt: Prompts = None,
    **options: Unpack[CallOptions],
) -> list[Audio]: ...
def generate(
    video: VideoInput | Sequence[VideoInput] | None = None,
    *,
    bundle: StrPath | None = None,
    text: Prompts = None,
    negative_prompt: Prompts = None,
    **options: Unpack[CallOptions],
) -> Audio | list[Audio]:
    """Make sound for a video in one call, with the options of ``Pipeline.generate``; the bundle stays loaded.

    vta_rt.generate("clip.mp4", seed=1).mux("clip.mp4", "clip_with_sound.mp4")
    """
    path = os.fspath(find_bundle(bundle))
    manifest = os.path.join(path, MANIFEST)
    built = os.stat(manifest).st_mtime_ns if os.path.exists(manifest) else None
    with _loading:  # of several first calls at the same time, only one loads the bundle
        pipeline = _pipeline(os.path.abspath(path) if built else path, built)
    call: Any = pipeline.generate  # which of its overloads, the caller's own types have decided
    return cast(Audio | list[Audio], call(video, text=text, negative_prompt=negative_prompt, **options))


@lru_cache(maxsize=1)
def _pipeline(bundle: str, built: int | None) -> Pipeline:
    """The pipeline of a bundle's path or hub id, opened anew when the bundle was rebuilt."""
    return Pipeline(bundle)


def _accept_old_name(options: SamplingOptions, name: str, value: T) -> T:
    """``value``, or what was given as ``negative``, the name that negative_prompt and negative_tokens used to have."""
    if "negative" not in options:
        return value
    warnings.warn(f"negative is now called {name}", DeprecationWarning, stacklevel=3)
    return cast(dict[str, Any], options).pop("negative")


def _is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value stands for several: strings, bytes and arrays are one."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def _warn_if_quiet(clip: Clip, peak: float) -> None:
    if peak < QUIET:
        LOGGER.warning("%s: %s", clip.name, f"its sound is nearly silent, its peak is {peak:.1g} of full scale")


def _as_source(value: Any, fps: float | None, times: Any) -> VideoSource | Frames | None:
    """What frames are read from; None for None.

    Raises:
        OptionError: it is nothing of the kind, or fps or times are given for what is no array.
    """
    if isinstance(value, np.ndarray):
        return Frames(value, fps, times)
    if fps is not None or times is not None:
        raise OptionError(f"fps and times are of frames in an array, the video is {describe(value)}")
    is_source = isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview, Video, Frames))
    if value is not None and not is_source and not callable(getattr(value, "read", None)):
        raise OptionError(f"video is {describe(value)}, {SOURCES}")
    return cast(VideoSource | Frames | None, value)


def _needed_encoders(videos: Sequence[Any], prompts: Sequence[Any]) -> list[str]:
    """The graphs that make tokens of the videos and prompts that are not None."""
    inputs = {"visual_encoder": videos, "text_encoder": prompts}
    return [graph for graph, values in inputs.items() if any(value is not None for value in values)]


def _check_guided(plan: SamplingPlan, negative: object) -> None:
    if negative is not None and not plan.is_guided:
        raise OptionError("guidance is 1, which has no effect; a negative prompt needs more")


def _stack(stages: Stages, clips: Sequence[Any]) -> np.ndarray:
    return np.stack([stages.lane.get(clip) for clip in clips])


def _seeded_noise(seed: Seed) -> Noise:
    """The noise of a seed; without one, of fresh entropy, the same for all clips of a batch."""
    if seed is not None:
        check_integer("seed", seed, 0)
    return Noise(np.random.SeedSequence(seed).entropy)


def _as_floats(name: str, value: object) -> np.ndarray:
    """An argument as a float32 array.

    Raises:
        OptionError: it is no array of finite real numbers.
    """
    array = _as_array(name, value)
    if array.dtype.kind not in "fiu":
        raise OptionError(f"{name} is {describe(array)}, an array of real numbers is needed")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise OptionError(f"{name} has values that are not finite, or too large for float32")
    return array


def _as_mask(value: object) -> np.ndarray:
    array = _as_array("token_mask", value)
    if array.dtype.kind not in "biu":
        raise OptionError(f"token_mask is {describe(array)}, an array of booleans is needed")
    return array.astype(bool)


def _as_array(name: str, value: object) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:  # ragged lists
        raise OptionError(f"{name} is {describe(value)}, which is no array; one of real numbers is needed") from error


def _expect_finite(name: str, array: np.ndarray) -> np.ndarray:
    """The output of a stage.

    Raises:
        VTAError: the model gave values that are not finite.
    """
    if not np.isfinite(array).all():
        raise VTAError(f"the model gave {name} that are not finite; a bundle at fp32 may help")
    return array


def _expect_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if np.shape(array) != tuple(shape):
        raise OptionError(f"{name} is {list(np.shape(array))} where {list(shape)} is needed")
