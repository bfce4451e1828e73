"""Makes video files to measure with: textured pictures that move, with a camera's noise. Knows no models."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vta_rt.files import atomic_write

RATE = 25


def make(
    path: Path, size: tuple[int, int], seconds: int, repeats: int = 1, options: dict[str, str] | None = None
) -> Path:
    """An H.264 file as libx264's defaults make it; what is there already is kept.

    Args:
        size: width and height. repeats: how many times the same ``seconds`` follow each other.
        options: of libx264.
    """
    if path.exists():
        return path
    with atomic_write(path) as part:
        if repeats == 1:
            _encode(part, size, seconds, options or {})
        else:
            once = make(path.with_stem(f"{path.stem}_once"), size, seconds, 1, options)
            _repeat(once, part, seconds, repeats)
    return path


def _encode(path: Path, size: tuple[int, int], seconds: int, options: dict[str, str]) -> None:
    with av.open(str(path), "w", format="mp4") as sink:
        stream = sink.add_stream("libx264", rate=RATE, options=options)
        # PyAV's own default cuts every picture into a slice a core, which x264's and ffmpeg's do not.
        stream.codec_context.thread_type = "FRAME"
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for index, planes in enumerate(_pictures(size, seconds * RATE)):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane, values in zip(frame.planes, planes, strict=True):
                rows = np.frombuffer(plane, np.uint8).reshape(len(values), plane.line_size)
                rows[:, : values.shape[1]] = values
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))


def _repeat(once: Path, path: Path, seconds: int, repeats: int) -> None:
    with av.open(str(path), "w", format="mp4") as sink:
        stream = None
        for turn in range(repeats):
            with av.open(str(once)) as source:
                pictures = source.streams.video[0]
                stream = stream or sink.add_stream_from_template(pictures, opaque=True)
                for packet in source.demux(pictures):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        shift = round(turn * seconds / packet.time_base)
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        sink.mux(packet)


def _pictures(size: tuple[int, int], count: int) -> Iterator[list[np.ndarray]]:
    """Y, U, V of a textured background that the camera sweeps, three textured balls, and noise."""
    width, height = size
    generator = np.random.default_rng(0)
    planes = [_texture(generator, height * 5 // 4, width * 5 // 4)]
    planes += [64 + _texture(generator, height * 5 // 8, width * 5 // 8) // 2 for _ in range(2)]
    side = height // 4
    ball = _texture(generator, side, side)
    y, x = np.ogrid[:side, :side]
    is_ball = np.hypot(y - side / 2, x - side / 2) < side / 2
    noise = np.clip(generator.normal(0, 4, (2 * height, width)), -16, 16).astype(np.int16)
    for index in range(count):
        time = index / RATE
        right, down = (
            int(side / 8 * (1 + wave)) // 2 * 2 for side, wave in ((width, np.sin(0.7 * time)), (height, np.cos(time)))
        )
        luma, *chroma = (
            plane[down // part :, right // part :][: height // part, : width // part]
            for plane, part in zip(planes, (1, 2, 2), strict=True)
        )
        luma = luma.copy()
        for number in range(3):
            left = int((width - side) * (0.5 + 0.5 * np.sin(time * (1 + 0.7 * number) + number)))
            top = int((height - side) * abs(np.cos(time * (1.3 + 0.4 * number) + number)))
            np.copyto(luma[top : top + side, left : left + side], ball, where=is_ball)
        offset = int(generator.integers(height))
        yield [np.clip(luma + noise[offset : offset + height], 16, 235).astype(np.uint8), *chroma]


def _texture(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """``[height, width]`` uint8 in 16..235 of details of every size, as in what cameras see."""
    total = np.zeros((height, width), np.float32)
    for step in (256, 128, 64, 32, 16, 8, 4, 2):
        coarse = generator.integers(0, 256, (height // step + 2, width // step + 2), np.uint8)
        frame = av.VideoFrame.from_ndarray(coarse, format="gray")
        fine = frame.reformat(width=width, height=height, format="gray", interpolation="BICUBIC").to_ndarray()
        total += (fine.astype(np.float32) - 128) * step**0.6
    total -= total.min()
    return (16 + 219 * total / total.max()).astype(np.uint8)
