"""Frames saved ahead come out the same from every kind of file, and nothing in a file is run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from train.data.raw import read_saved_frames
from train.data.sample import SampleError
from vta_rt.config import FrameConfig
from vta_rt.video import sample_frames

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)


def read(path: Path, size: int = 16, count: int = 6) -> np.ndarray:
    return read_saved_frames(path, FrameConfig(size=size), lambda total: 0, count)[1]


FORMATS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "f.npy": np.save,
    "f.npz": lambda path, array: np.savez(path, frames=array, other=np.zeros(2)),
    "f.safetensors": lambda path, array: safetensors.numpy.save_file({"any": array.copy()}, path),
    "f.pt": lambda path, array: torch.save(torch.from_numpy(array.copy()), path),
    "f.pth": lambda path, array: torch.save({"frames": torch.from_numpy(array.copy()), "n": 1}, path),
}
FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uint8": lambda frames: frames,
    "channels first": lambda frames: frames.transpose(0, 3, 1, 2),
    "float": lambda frames: (frames / 255).astype(np.float32),
    "double, channels first": lambda frames: (frames / 255).transpose(0, 3, 1, 2),
    "half": lambda frames: (frames / 255).astype(np.float16),
    "float of 255": lambda frames: frames.astype(np.float32),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FORMATS)
def test_all_files_and_forms_hold_the_same_frames(name: str, form: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, FORMS[form](FRAMES))
    found = read(tmp_path / name)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, FRAMES)


def test_bfloat16_is_read(tmp_path: Path) -> None:
    torch.save((torch.from_numpy(FRAMES) / 255).bfloat16(), tmp_path / "f.pt")
    assert np.abs(read(tmp_path / "f.pt").astype(int) - FRAMES).max() <= 1


def test_a_part_is_taken_from_where_it_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", FRAMES)
    seen = []
    begin, found = read_saved_frames(tmp_path / "f.npy", FrameConfig(size=16), lambda total: seen.append(total) or 3, 2)
    assert (begin, seen) == (3, [6])
    np.testing.assert_array_equal(found, FRAMES[3:5])


def test_other_sizes_are_resized_as_a_videos_pictures_are(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    video = write_video(tmp_path / "v.mp4", size=32)
    np.save(tmp_path / "f.npy", sample_frames(video, 12.5, 32))
    expected = sample_frames(video, 12.5, 16)
    np.testing.assert_array_equal(read(tmp_path / "f.npy", count=8), expected)
    wide = np.random.default_rng(1).integers(0, 256, (1, 40, 60, 3), np.uint8)
    np.save(tmp_path / "w.npy", wide)
    by_hand = Image.fromarray(wide[0]).resize((24, 16), Image.Resampling.BICUBIC).crop((4, 0, 20, 16))
    np.testing.assert_array_equal(read(tmp_path / "w.npy")[0], np.array(by_hand))


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch RAN",)


def with_value(value: float) -> np.ndarray:
    frames = (FRAMES / 255).astype(np.float32)
    frames[3, 5, 5, 0] = value
    return frames


BROKEN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "no such file": ("f.npy", lambda path: None),
    "frames are read from .npy, .npz, .safetensors, .pt, .pth, not .mp4": ("f.mp4", lambda path: path.touch()),
    "holds an array [6, 16, 16], frames are [T, H, W, 3] or [T, 3, H, W]": (
        "f.npy",
        lambda path: np.save(path, FRAMES[..., 0]),
    ),
    "holds an array [0, 16, 16, 3]": ("f.npy", lambda path: np.save(path, FRAMES[:0])),
    "holds an array [6, 16, 16, 4]": ("f.npy", lambda path: np.save(path, np.zeros((6, 16, 16, 4), np.uint8))),
    "its frames hold NaN or infinite values": ("f.npy", lambda path: np.save(path, with_value(np.nan))),
    "its frames reach from -1 to 1, [0, 1] or [0, 255] is needed": (
        "f.npy",
        lambda path: np.save(path, with_value(-1)),
    ),
    "its frames reach from 0 to 300": ("f.npy", lambda path: np.save(path, with_value(300))),
    "holds int64 frames, uint8 or floating point is needed": ("f.npy", lambda path: np.save(path, FRAMES.astype(int))),
    "is damaged or not what its name says": ("f.npy", lambda path: path.write_bytes(b"\x93NUMPY" + bytes(range(40)))),
    "is damaged or not what its name says (": ("f.safetensors", lambda path: path.write_bytes(b"12345678")),
    "is damaged or not what its name says (F": ("f.npz", lambda path: path.write_text("a zip it is not")),
    "is damaged or not what its name says (R": ("f.pt", lambda path: path.write_bytes(b"")),
    "holds Python objects besides tensors and is not loaded, as that could run code": (
        "f.pt",
        lambda path: torch.save({"frames": Code()}, path),
    ),
    "holds 2 arrays and none is called frames": ("f.npz", lambda path: np.savez(path, a=FRAMES, b=FRAMES)),
    "holds a list, an array of frames is needed": ("f.pt", lambda path: torch.save([1, 2], path)),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_holds_no_frames_is_one_line(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, write = BROKEN[reason]
    write(tmp_path / name)
    with pytest.raises(SampleError) as error:
        read(tmp_path / name)
    start = reason.removesuffix("(F").removesuffix("(R").removesuffix("(")
    assert str(error.value).startswith(f"{tmp_path / name}: {start}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "RAN").exists()


def test_object_arrays_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "f.npy", np.array([Code()], dtype=object), allow_pickle=True)
    (tmp_path / "g.pt").write_bytes(pickle.dumps(Code()))
    for name in ("f.npy", "g.pt"):
        with pytest.raises(SampleError):
            read(tmp_path / name)
    assert not (tmp_path / "RAN").exists()
