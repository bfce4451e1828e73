"""Reads clips from their original files: frames from a video or a file of saved frames, sound from anything FFmpeg reads."""

from __future__ import annotations

import itertools
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from PIL import Image
from safetensors import SafetensorError

from train.data.audio import read_audio
from train.data.lists import Entry, Listing
from train.data.sample import Sample, SampleError, Window
from train.models.weights import load_torch
from vta_rt.config import FrameConfig
from vta_rt.errors import VTAError
from vta_rt.video import fit_frame, iter_frames, probe

FRAMES_ARRAY = "frames"  # name of the array in files that can hold several


class RawSource:
    """Clips that are decoded each time they are read.

    Every clip is cut to the window from its beginning, and its sound is padded with silence. With ``random_window``, a clip
    longer than the window is cut at a random place instead, frames and sound alike, if ``load`` is given a generator; the
    cut starts at a multiple of 1/frame_rate, and the video is still decoded from its beginning.
    """

    def __init__(self, entries: Listing | Sequence[Entry], window: Window, *, random_window: bool = False) -> None:
        self.entries: Sequence[Entry] = entries.entries if isinstance(entries, Listing) else entries
        self.problems: Mapping[str, str] = entries.problems if isinstance(entries, Listing) else {}
        self.window = window
        self.random_window = random_window

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.entries[index].name

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Read a clip.

        Raises:
            SampleError: a file is missing, damaged or of another kind, or has no frames, no sound or values that are not
                finite.
        """
        entry, window = self.entries[index], self.window
        try:
            first, frames = self._read_frames(entry, rng if self.random_window else None)
            audio = entry.audio or entry.video
            assert audio is not None
            start = round(first / window.frame_rate * window.sample_rate)
            wave = read_audio(audio, window.sample_rate, start=start, samples=window.samples)
        except SampleError:
            raise
        except (VTAError, OSError, ValueError) as error:
            raise SampleError(str(error)) from error
        return Sample(name=entry.name, text=entry.text, frames=torch.from_numpy(frames), wave=torch.from_numpy(wave))

    def _read_frames(self, entry: Entry, rng: np.random.Generator | None) -> tuple[int, np.ndarray]:
        """The number of the first frame, and the frames [T, S, S, 3] uint8."""
        count, config = self.window.frames, self.window.frame_config
        if entry.features is not None:
            return read_saved_frames(entry.features, config, lambda total: _choose_first(total, count, rng), count)
        assert entry.video is not None
        first = 0
        if rng is not None:
            first = _choose_first(int(probe(entry.video).duration * config.rate), count, rng)
        video = iter_frames(
            entry.video, config.rate, config.size, fit=config.fit, resize=config.resize, kernel=config.kernel
        )
        with closing(video) as frames:  # type: ignore[type-var]
            return first, np.stack(list(itertools.islice(frames, first, first + count)))


def _choose_first(total: int, count: int, rng: np.random.Generator | None) -> int:
    """The frame at which to begin to take ``count`` of ``total``."""
    return 0 if rng is None or total <= count else int(rng.integers(total - count + 1))


def read_saved_frames(
    path: Path, config: FrameConfig, first: Callable[[int], int], count: int
) -> tuple[int, np.ndarray]:
    """Read frames from a numpy, safetensors or torch file, resized and cropped as those of a video are.

    The file holds [T, H, W, 3] or [T, 3, H, W]: uint8; or floating point in [0, 1], or if anything exceeds 1, in
    [0, 255]. Its name ends in .npy, .npz, .safetensors, .pt or .pth. A file that can hold several arrays must hold just one,
    or one called ``frames``. The frames are taken to have the model's frame rate. Nothing in the file is ever run.

    Args:
        config: the size of the frames, and how they are brought to it.
        first: given the number of frames T, the number of the first to take.
        count: how many to take at most.

    Returns:
        the number of the first frame, and ``[count at most, size, size, 3]`` uint8.

    Raises:
        SampleError: missing, damaged, of another shape or type, not finite, or a pickle with more than tensors in it.
    """
    frames = _channels_last(path, _read_array(path))
    begin = first(len(frames))
    frames = _as_uint8(path, frames[begin : begin + count])
    if frames.shape[1:3] != (config.size, config.size):
        images = (Image.fromarray(frame) for frame in frames)
        frames = np.stack([fit_frame(image, config.size, config.fit, config.resize, config.kernel) for image in images])
    return begin, np.ascontiguousarray(frames)


def _read_array(path: Path) -> np.ndarray:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise SampleError(f"{path}: frames are read from {', '.join(READERS)}, not {path.suffix or 'a bare name'}")
    try:
        content = reader(path)
    except FileNotFoundError as error:
        raise SampleError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        raise SampleError(
            f"{path}: holds Python objects besides tensors and is not loaded, as that could run code"
        ) from error
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, SafetensorError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise SampleError(f"{path}: is damaged or not what its name says ({reason})") from error
    if isinstance(content, Mapping):
        if FRAMES_ARRAY not in content and len(content) != 1:
            raise SampleError(f"{path}: holds {len(content)} arrays and none is called {FRAMES_ARRAY}")
        content = content.get(FRAMES_ARRAY, next(iter(content.values())))
    if isinstance(content, torch.Tensor):
        content = (content.float() if content.dtype == torch.bfloat16 else content).numpy()
    if not isinstance(content, np.ndarray):
        raise SampleError(f"{path}: holds a {type(content).__name__}, an array of frames is needed")
    return content


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".npz": _load_npz,
    ".safetensors": safetensors.numpy.load_file,
    ".pt": load_torch,
    ".pth": load_torch,
}


def _channels_last(path: Path, frames: np.ndarray) -> np.ndarray:
    if frames.ndim == 4 and 0 not in frames.shape:
        if frames.shape[3] == 3:
            return frames
        if frames.shape[1] == 3:
            return frames.transpose(0, 2, 3, 1)
    raise SampleError(f"{path}: holds an array {list(frames.shape)}, frames are [T, H, W, 3] or [T, 3, H, W]")


def _as_uint8(path: Path, frames: np.ndarray) -> np.ndarray:
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise SampleError(f"{path}: holds {frames.dtype} frames, uint8 or floating point is needed")
    frames = frames.astype(np.float32)
    if not np.isfinite(frames).all():
        raise SampleError(f"{path}: its frames hold NaN or infinite values")
    low, high = float(frames.min()), float(frames.max())
    if low < 0 or high > 255:
        raise SampleError(f"{path}: its frames reach from {low:g} to {high:g}, [0, 1] or [0, 255] is needed")
    return (frames * 255 if high <= 1 else frames).round().astype(np.uint8)
