"""Sound: samples and their rate, to load, resample, trim, fade, mix, save as WAV or FLAC, or put on a video."""

from __future__ import annotations

import io
import math
import os
import wave
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import av
import numpy as np

from vta_rt.errors import OptionError, OutputError, check_integer, describe
from vta_rt.files import StrPath, atomic_write
from vta_rt.video import Limits, Samples, VideoSource, load_sound, mux, resample

MAX_SAMPLE_RATE = 768_000  # of the converters that there are
FADE_SECONDS = 0.02  # from one sound to another that follows it


@dataclass(frozen=True, eq=False)
class Audio:
    """Mono sound. Methods that change it return a new one.

    ``len`` is the number of samples, ``np.asarray`` gives them.

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

    @classmethod
    def load(cls, source: VideoSource, sample_rate: int | None = None, *, limits: Limits | None = None) -> Audio:
        """The sound of a file, of any kind that videos are read of or of sound alone, mixed to mono.

        Args:
            source: its path, its bytes, a binary file that is open, or a ``vta_rt.Video``.
            sample_rate: to resample to; None for the file's own.
            limits: what a file may ask for, for a source that is no Video.

        Raises:
            VideoError: it cannot be read, or has no sound.
        """
        samples, rate = load_sound(source, sample_rate, limits)
        return cls(samples, rate)

    def __len__(self) -> int:
        return len(self.samples)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        converted = self.samples.astype(dtype or np.float32, copy=bool(copy))
        if copy is False and converted is not self.samples:
            raise ValueError(f"samples cannot become {converted.dtype} without a copy")
        return converted

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
        return _to_int16(self.samples)

    def trim(self, seconds: float) -> Audio:
        """Cut the end off, or append silence, for exactly ``round(seconds * sample_rate)`` samples.

        Raises:
            OptionError: ``seconds`` is negative, not finite, or less than one sample.
        """
        length = self._samples_in("seconds", seconds)
        return self._with(np.pad(self.samples[:length], (0, max(0, length - len(self.samples)))))

    def resample(self, sample_rate: int) -> Audio:
        """The same sound at another rate, ``round(N * sample_rate / self.sample_rate)`` samples, at least one.

        By FFmpeg's resampler, a windowed sinc; what the new rate cannot hold is filtered out.

        Raises:
            OptionError: a rate that is no integer from 1 to 768,000.
        """
        check_integer("sample_rate", sample_rate, 1, MAX_SAMPLE_RATE)
        if sample_rate == self.sample_rate:
            return self
        length = max(1, round(len(self.samples) * int(sample_rate) / self.sample_rate))
        return Audio(resample(self.samples, self.sample_rate, int(sample_rate), length), sample_rate)

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
        if not isinstance(other, Audio):
            raise OptionError(f"other is {describe(other)}, an Audio is needed")
        if other.sample_rate != self.sample_rate:
            raise OptionError(
                f"sounds of {self.sample_rate} and {other.sample_rate} samples a second cannot be mixed; resample one"
            )
        if not math.isfinite(gain):
            raise OptionError(f"gain is {gain}, a finite number is needed")
        samples = np.zeros(max(len(self.samples), len(other.samples)), np.float32)
        samples[: len(self.samples)] = self.samples
        samples[: len(other.samples)] += np.float32(gain) * other.samples
        return self._with(samples)

    def splice(self, section: Audio, start: float) -> Audio:
        """This sound with a section replaced by another sound, from ``start`` seconds on; the rest is the same to the bit.

        Where the section begins and ends inside this sound, it is crossfaded over ``FADE_SECONDS`` within the section.

        Raises:
            OptionError: the sample rates differ, or the section does not lie within this sound.
        """
        if not isinstance(section, Audio):
            raise OptionError(f"section is {describe(section)}, an Audio is needed")
        if section.sample_rate != self.sample_rate:
            raise OptionError(
                f"a section of {section.sample_rate} samples a second does not fit into {self.sample_rate}; resample it"
            )
        first = self._samples_in("start", start)
        last = first + len(section)
        if last > len(self):
            raise OptionError(
                f"the section ends at {last / self.sample_rate:.2f} s, the sound that it is to be in at {self.duration:.2f} s"
            )
        samples, new = self.samples.copy(), section.samples.copy()
        old = samples[first:last]
        fade = min(round(FADE_SECONDS * self.sample_rate), len(new) // 2)
        if first > 0 and fade:
            new[:fade] = crossfade(old[:fade], new[:fade])
        if last < len(samples) and fade:
            new[-fade:] = crossfade(new[-fade:], old[-fade:])
        samples[first:last] = new
        return self._with(samples)

    def save(self, file: StrPath | IO[bytes], format: str | None = None) -> None:
        """Write a file of 16-bit samples, completely or not at all.

        Args:
            file: a path, or a binary file that is open for writing.
            format: wav or flac; None for what the path's suffix says, and for wav in an open file.

        Raises:
            OptionError: another format or suffix.
            OutputError: the file cannot be written.
        """
        if not isinstance(file, (str, os.PathLike)):
            if not callable(getattr(file, "write", None)):
                raise OptionError(f"file is {describe(file)}, a path or an open binary file is needed")
            content = self.to_bytes(format or "wav")
            try:
                file.write(content)
            except (OSError, ValueError, TypeError) as error:  # closed; open as text
                name = getattr(file, "name", None) or "file"
                raise OutputError(f"{name}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
            return
        save_sound(self.samples, self.sample_rate, file, format)

    def to_bytes(self, format: str = "wav") -> bytes:
        """The content of a file of 16-bit samples, wav or flac.

        Raises:
            OptionError: another format.
        """
        if f".{format}" not in WRITERS:
            names = " or ".join(suffix[1:] for suffix in WRITERS)
            raise OptionError(f"format is {format!r}, {names} is needed")
        content = io.BytesIO()
        _write(f".{format}", content, self.samples, self.sample_rate, "bytes")
        return content.getvalue()

    def mux(self, video: VideoSource, out: StrPath, *, drop: Collection[str] = ()) -> None:
        """Write a video with this sound as its default soundtrack, its video stream copied; see ``vta_rt.video.mux``."""
        mux(video, self.samples, self.sample_rate, out, drop=drop)

    def _with(self, samples: np.ndarray) -> Audio:
        return Audio(samples, self.sample_rate)

    def _samples_in(self, name: str, seconds: float) -> int:
        if not 0 <= seconds < math.inf:
            raise OptionError(f"{name} is {seconds}, a number of 0 or more is needed")
        return round(seconds * self.sample_rate)


def save_sound(samples: Samples, rate: int, path: StrPath, format: str | None = None) -> None:
    """Write a file of 16-bit samples, a second at a time; see ``Audio.save``."""
    suffix = Path(path).suffix.lower() if format is None else f".{format}"
    if suffix not in WRITERS:
        allowed, found = " and ".join(WRITERS), suffix or "a name without suffix"
        raise OptionError(f"{path}: sound is saved as {allowed}, not {found}")
    with atomic_write(path) as part:
        _write(suffix, os.fspath(part), samples, rate, path)


def _write(suffix: str, file: Any, samples: Samples, rate: int, name: object) -> None:
    seconds = (_to_int16(samples[start : start + rate]) for start in range(0, len(samples), rate))
    try:
        WRITERS[suffix](file, seconds, rate)
    except (av.FFmpegError, wave.Error) as error:
        raise OutputError(f"{name}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def _to_int16(samples: np.ndarray) -> np.ndarray:
    return np.clip(samples * 32768, -32768, 32767).astype(np.int16)


def _write_wav(file: Any, parts: Iterable[np.ndarray], rate: int) -> None:
    with wave.open(file, "wb") as sink:
        sink.setnchannels(1)
        sink.setsampwidth(2)
        sink.setframerate(rate)
        for samples in parts:
            sink.writeframesraw(samples.astype("<i2").tobytes())


def _write_flac(file: Any, parts: Iterable[np.ndarray], rate: int) -> None:
    with av.open(f"file:{file}" if isinstance(file, str) else file, "w", format="flac") as sink:
        stream = sink.add_stream("flac", rate=rate, layout="mono", format="s16")
        for samples in parts:
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = rate
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))


WRITERS: dict[str, Callable[[Any, Iterable[np.ndarray], int], None]] = {".wav": _write_wav, ".flac": _write_flac}


def crossfade(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """One wave fading into another, both ``[N]`` float32: with constant power, however much the two are alike."""
    rise = (np.arange(len(after), dtype=np.float32) + 0.5) / max(len(after), 1)
    fall = 1 - rise
    power = math.sqrt(float(before @ before) * float(after @ after))
    alike = max(0.0, float(before @ after) / power) if power else 1.0
    faded: np.ndarray = (before * fall + after * rise) / np.sqrt(fall**2 + rise**2 + 2 * alike * fall * rise)
    return faded
