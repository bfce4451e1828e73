"""Frames saved ahead of time, as numpy, safetensors or torch files. Knows these files; nothing in them is ever run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from PIL import Image
from safetensors import SafetensorError

from train.data.sample import SampleError
from vta_rt.config import FrameConfig
from vta_rt.video import fitted

NAME = "frames"  # of the array, in files that can hold several


def read_frames(path: Path, how: FrameConfig, first: Callable[[int], int], count: int) -> tuple[int, np.ndarray]:
    """Frames of a file at the model's picture size, resized and cropped as those of a video are.

    The file holds [T, H, W, 3] or [T, 3, H, W]: uint8; or floating point in [0, 1], or if anything exceeds 1, in
    [0, 255]. Its name ends in .npy, .npz, .safetensors, .pt or .pth; one that can hold several arrays holds one alone, or
    one called ``frames``. They are taken to have the model's frame rate.

    Args:
        how: size of the pictures, and how they are brought to it.
        first: says with which of all T frames to begin.
        count: take so many at most.

    Returns:
        the number of the first frame taken, and ``[count at most, size, size, 3]`` uint8.

    Raises:
        SampleError: missing, damaged, of another shape or type, not finite, or a pickle with more than tensors in it.
    """
    frames = _channels_last(path, _read(path))
    begin = first(len(frames))
    frames = _as_uint8(path, frames[begin : begin + count])
    if frames.shape[1:3] != (how.size, how.size):
        images = (Image.fromarray(frame) for frame in frames)
        frames = np.stack([fitted(image, how.size, how.fit, how.resize, how.kernel) for image in images])
    return begin, np.ascontiguousarray(frames)


def _read(path: Path) -> np.ndarray:
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
        raise SampleError(f"{path}: is damaged or not what its name says ({_first_line(error)})") from error
    if isinstance(content, Mapping):
        if NAME not in content and len(content) != 1:
            raise SampleError(f"{path}: holds {len(content)} arrays and none is called {NAME}")
        content = content.get(NAME, next(iter(content.values())))
    if isinstance(content, torch.Tensor):
        content = (content.float() if content.dtype == torch.bfloat16 else content).numpy()
    if not isinstance(content, np.ndarray):
        raise SampleError(f"{path}: holds a {type(content).__name__}, an array of frames is needed")
    return content


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _read_torch(path: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):  # about unusual pickles, which load or are refused
        return torch.load(path, map_location="cpu", weights_only=True)


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".npz": _read_npz,
    ".safetensors": safetensors.numpy.load_file,
    ".pt": _read_torch,
    ".pth": _read_torch,
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


def _first_line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
