"""Generated sound: samples and their rate, to trim, fade, mix, save as WAV or FLAC, or put on a video."""

from __future__ import annotations

import math
import os
import wave
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from vta_rt.errors import OptionError, OutputError, check_integer
from vta_rt.files import StrPath, atomic_write
from vta_rt.video import VideoSource, mux


@dataclass(frozen=True, eq=False)
class Audio:
    """Mono sound. Methods that change it return a new one.

    Raises:
        OptionError: samples of another shape or type, none, or not all finite; a sample rate that is no integer above 0.
    """

    samples: np.ndarray = field(repr=False)  # [N] float32, N at least 1; full scale is [-1, 1], clipped on writing
    sample_rate: int  # samples a second

    def __post_init__(self) -> None:
        samples, rate = self.samples, self.sample_rate
        if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype != np.float32:
            found = (
                f"{samples.dtype} {list(samples.shape)}" if isinstance(samples, np.ndarray) else type(samples).__name__
            )
            raise OptionError(f"samples are {found}, a float32 array [N] is needed (mono)")
        if samples.size == 0:
            raise OptionError("samples are empty, at least one is needed")
        if not np.isfinite(samples).all():
            raise OptionError("samples hold NaN or infinite values")
        check_integer("sample_rate", rate, 1)
        object.__setattr__(self, "sample_rate", int(rate))

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate

    @property
    def peak(self) -> float:
        """The largest absolute sample."""
        return float(np.abs(self.samples).max())

    def to_int16(self) -> np.ndarray:
        """``[N]`` int16: samples times 32768, truncated towards zero and clipped at full scale."""
        return np.clip(self.samples * 32768, -32768, 32767).astype(np.int16)

    def trim(self, seconds: float) -> Audio:
        """Cut the end off, or append silence, for exactly ``round(seconds * sample_rate)`` samples.

        Raises:
            OptionError: ``seconds`` is negative, not finite, or less than one sample.
        """
        length = self._samples_in("seconds", seconds)
        return self._with(np.pad(self.samples[:length], (0, max(0, length - len(self.samples)))))

    def fade(self, in_seconds: float = 0.0, out_seconds: float = 0.0) -> Audio:
        """Fade in linearly over the first seconds and out over the last ones.

        A fade is at most as long as the sound; where both overlap, they multiply.

        Raises:
            OptionError: a number of seconds is negative or not finite.
        """
        samples = self.samples.copy()
        rise = min(self._samples_in("in_seconds", in_seconds), len(samples))
        fall = min(self._samples_in("out_seconds", out_seconds), len(samples))
        samples[:rise] *= np.linspace(0, 1, rise, endpoint=False, dtype=np.float32)
        samples[len(samples) - fall :] *= np.linspace(0, 1, fall, endpoint=False, dtype=np.float32)[::-1]
        return self._with(samples)

    def mix(self, other: Audio, gain: float = 1.0) -> Audio:
        """This sound plus ``gain`` times another, as long as the longer of the two.

        Raises:
            OptionError: the sample rates differ, or ``gain`` is not finite.
        """
        if other.sample_rate != self.sample_rate:
            raise OptionError(f"sounds of {self.sample_rate} and {other.sample_rate} samples a second cannot be mixed")
        if not math.isfinite(gain):
            raise OptionError(f"gain is {gain}, a finite number is needed")
        samples = np.zeros(max(len(self.samples), len(other.samples)), np.float32)
        samples[: len(self.samples)] = self.samples
        samples[: len(other.samples)] += np.float32(gain) * other.samples
        return self._with(samples)

    def save(self, path: StrPath) -> None:
        """Write a file of 16-bit samples, completely or not at all; its suffix says the format: .wav or .flac.

        Raises:
            OptionError: another suffix.
            OutputError: the file cannot be written.
        """
        write = WRITERS.get(Path(path).suffix.lower())
        if write is None:
            allowed, found = " and ".join(WRITERS), Path(path).suffix or "a name without suffix"
            raise OptionError(f"{path}: sound is saved as {allowed}, not {found}")
        with atomic_write(path) as part:
            try:
                write(part, self.to_int16(), self.sample_rate)
            except (av.FFmpegError, wave.Error) as error:
                raise OutputError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error

    def mux(self, video: VideoSource, out: StrPath, *, drop: Collection[str] = ()) -> None:
        """Write a video with this sound as its default soundtrack, its video stream copied; see ``vta_rt.video.mux``."""
        mux(video, self.samples, self.sample_rate, out, drop=drop)

    def _with(self, samples: np.ndarray) -> Audio:
        return Audio(samples, self.sample_rate)

    def _samples_in(self, name: str, seconds: float) -> int:
        if not 0 <= seconds < math.inf:
            raise OptionError(f"{name} is {seconds}, a number of 0 or more is needed")
        return round(seconds * self.sample_rate)


def _write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    with wave.open(os.fspath(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def _write_flac(path: Path, samples: np.ndarray, rate: int) -> None:
    with av.open(f"file:{os.fspath(path)}", "w", format="flac") as sink:
        stream = sink.add_stream("flac", rate=rate, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))


WRITERS = {".wav": _write_wav, ".flac": _write_flac}
