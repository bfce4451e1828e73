"""libvta_rt through ctypes: a small binding, as another language would write one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32)
OBSERVE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t, ctypes.c_void_p
)


class OpenOptions(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("backend", ctypes.c_char_p), ("threads", ctypes.c_int32))


class GenerateOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("seed", ctypes.c_uint64),
        ("steps", ctypes.c_int32),
        ("solver", ctypes.c_char_p),
        ("spacing", ctypes.c_char_p),
        ("guidance", ctypes.c_double),
        ("guidance_low", ctypes.c_double),
        ("guidance_high", ctypes.c_double),
        ("progress", PROGRESS),
        ("observe", OBSERVE),
        ("user", ctypes.c_void_p),
    )


class Frames(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("rows", ctypes.POINTER(ctypes.c_void_p)),
        ("stride", ctypes.c_size_t),
        ("count", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("times", ctypes.POINTER(ctypes.c_double)),
        ("duration", ctypes.c_double),
    )


class Failure(Exception):
    """What the library said."""


class Library:
    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        texts = ("vta_version", "vta_bundle_message", "vta_bundle_backend", "vta_result_message")
        for name in texts:
            getattr(self.c, name).restype = ctypes.c_char_p
        self.c.vta_result_samples.restype = ctypes.POINTER(ctypes.c_float)
        self.c.vta_result_count.restype = ctypes.c_size_t

    def open(self, folder: Path, *, backend: str = "cpu", threads: int = 1) -> Bundle:
        options = OpenOptions(ctypes.sizeof(OpenOptions), backend.encode(), threads)
        handle = ctypes.c_void_p()
        status = self.c.vta_bundle_open(str(folder).encode(), ctypes.byref(options), ctypes.byref(handle))
        bundle = Bundle(self.c, handle)
        if status:
            raise Failure(self.c.vta_bundle_message(handle).decode())
        return bundle


class Bundle:
    def __init__(self, c: Any, handle: ctypes.c_void_p) -> None:
        self.c, self.handle = c, handle

    def __del__(self) -> None:
        self.c.vta_bundle_close(self.handle)

    def generate(self, source: Path | tuple[np.ndarray, list[float], float], **options: Any) -> Result:
        """Sound for a file, or for frames ``[T, H, W, 3]`` with their times and the time at which the last one ends."""
        seen: list[tuple[str, np.ndarray]] = []

        def observe(_: Any, name: bytes, shape: Any, rank: int, values: int) -> None:
            sizes = tuple(shape[:rank])
            kind: Any = ctypes.c_uint8 if name == b"frames" else ctypes.c_float
            array = np.ctypeslib.as_array(ctypes.cast(values, ctypes.POINTER(kind)), (int(np.prod(sizes)),))
            seen.append((name.decode(), array.reshape(sizes).copy()))

        own = GenerateOptions(ctypes.sizeof(GenerateOptions), observe=OBSERVE(observe), **{"guidance": -1.0, **options})
        handle = ctypes.c_void_p()
        if isinstance(source, Path):
            arguments: Any = str(source).encode()
            call: Callable[..., int] = self.c.vta_generate_file
        else:
            frames, times, duration = source
            rows = (ctypes.c_void_p * len(frames))(*(frame.ctypes.data for frame in frames))
            count, height, width, _ = frames.shape
            clock = (ctypes.c_double * count)(*times)
            size = ctypes.sizeof(Frames)
            arguments = ctypes.byref(Frames(size, rows, frames.strides[1], count, width, height, clock, duration))
            call = self.c.vta_generate_frames
        status = call(self.handle, arguments, ctypes.byref(own), ctypes.byref(handle))
        result = Result(self.c, handle, seen)
        if status:
            raise Failure(self.c.vta_result_message(handle).decode())
        return result


class Result:
    def __init__(self, c: Any, handle: ctypes.c_void_p, seen: list[tuple[str, np.ndarray]]) -> None:
        self.c, self.handle, self.seen = c, handle, seen

    def __del__(self) -> None:
        self.c.vta_result_close(self.handle)

    @property
    def samples(self) -> np.ndarray:
        count = self.c.vta_result_count(self.handle)
        return np.ctypeslib.as_array(self.c.vta_result_samples(self.handle), (count,)).copy()

    def stage(self, name: str) -> list[np.ndarray]:
        return [array for stage, array in self.seen if stage == name]

    def write(self, path: Path, video: Path | None = None) -> None:
        name = str(path).encode()
        if video is None:
            status = self.c.vta_result_save(self.handle, name)
        else:
            status = self.c.vta_result_mux(self.handle, str(video).encode(), name)
        if status:
            raise Failure(self.c.vta_result_message(self.handle).decode())
