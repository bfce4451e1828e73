"""Time and memory of reading frames: vta_rt beside PyAV's defaults, decoding every frame and resizing with Pillow.

    python benchmarks/frames.py [--repeats 3] [--clips DIR] [--only CLIP...]

Clips are made with libx264's defaults (textured scenes that move, with a camera's noise) and kept in DIR. Each measurement is
a process of its own; the two ways alternate (clips over a minute: once), and ratios are of the medians. ``window`` is the
first 10.24 s, what a model hears at once; ``whole`` is the entire file. Both take 2 frames a second at 224 x 224 pixels; the
plain way decodes the entire file either way. CPU seconds are summed over all threads: on a machine with other work their
ratio is the one to trust, and two cores can at best double it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import machine
import numpy as np
from PIL import Image

from vta_rt.files import atomic_write
from vta_rt.video import iter_frames

SIZE, FRAME_RATE, WINDOW = 224, 2, 10.24
RATE = 25  # frames a second of the clips
COMPARED = 20  # frames of each clip
CLIPS: dict[str, dict[str, Any]] = {
    "1080p, 10 min": {"size": (1920, 1080), "seconds": 10, "repeats": 60},
    "720p, 10 s": {"size": (1280, 720), "seconds": 10},
    "4K, 10 s": {"size": (3840, 2160), "seconds": 10},
    "1080p, 10 s": {"size": (1920, 1080), "seconds": 10},
    "720p, 10 s, a key frame a second": {"size": (1280, 720), "seconds": 10, "options": {"g": "25"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind (default: 3)")
    parser.add_argument("--clips", type=Path, default=Path(tempfile.gettempdir()) / "vta_rt_clips", metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=CLIPS, default=list(CLIPS), metavar="CLIP", help="; ".join(CLIPS))
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "CLIP", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, clip, seconds = options.measure
        print(json.dumps(_measure(way, clip, float(seconds) or None)))
        return
    options.clips.mkdir(parents=True, exist_ok=True)
    rows = []
    print(f"{'clip':<34}{'part':<8}  plain s   ours s  ratio  CPU ratio  plain MB  ours MB    diff  max")
    for name in options.only:
        settings = CLIPS[name]
        clip = make_clip(options.clips / f"{name.replace(',', '').replace(' ', '_')}.mp4", **settings)
        parts = {"window": WINDOW, "whole": None} if "repeats" in settings else {"whole": None}
        for row in _compare(name, clip, parts, 1 if "repeats" in settings else options.repeats):
            rows.append(row)
            print(
                f"{name:<34}{row['part']:<8}{row['plain']['seconds']:>9.2f}{row['ours']['seconds']:>9.2f}{row['ratio']:>7.1f}"
                f"{row['cpu_ratio']:>11.1f}{row['plain']['peak_mb']:>10.0f}{row['ours']['peak_mb']:>9.0f}"
                f"{row['mean_difference']:>8.4f}{row['largest_difference']:>5}",
                flush=True,
            )
            about = {"frame_rate": FRAME_RATE, "size": SIZE, "window": WINDOW, "load": os.getloadavg()[2]}
            machine.write("frames", {**about, "rows": rows})
    print(machine.RESULTS / "frames.json")


def _compare(name: str, clip: Path, parts: dict[str, float | None], repeats: int) -> Iterator[dict[str, Any]]:
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], **{part: [] for part in parts}}
    for _ in range(repeats):
        for way, results in runs.items():
            arguments = ("plain", clip, 0) if way == "plain" else ("ours", clip, parts[way] or 0)
            command = [sys.executable, __file__, "--measure", *map(str, arguments)]
            results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    middle = {
        way: {key: round(statistics.median(run[key] for run in results), 3) for key in results[0]}
        for way, results in runs.items()
    }
    plain = middle["plain"]
    first = [np.stack(list(islice(way(str(clip), None), COMPARED))).astype(int) for way in (_plain, _ours)]
    difference = np.abs(first[0] - first[1])
    for part in parts:
        yield {
            "clip": name,
            "part": part,
            "plain": plain,
            "ours": middle[part],
            "ratio": round(plain["seconds"] / middle[part]["seconds"], 2),
            "cpu_ratio": round(plain["cpu_seconds"] / middle[part]["cpu_seconds"], 2),
            "mean_difference": round(float(difference.mean()), 5),
            "largest_difference": int(difference.max()),
        }


def _measure(way: str, clip: str, seconds: float | None) -> dict[str, Any]:
    start, before = time.perf_counter(), time.process_time()
    frames = sum(1 for _ in {"plain": _plain, "ours": _ours}[way](clip, seconds))
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - before,
        "peak_mb": round(1000 * machine.peak_memory_gb()),
        "frames": frames,
    }


def _plain(clip: str, seconds: float | None) -> Iterator[np.ndarray]:
    """Yield, for every time t, the last frame with a timestamp of at most t: decode all, resize with Pillow."""
    index = 0
    with av.open(clip) as container:
        previous = start = None
        for frame in container.decode(video=0):
            start = frame.time if start is None else start
            while previous is not None and frame.time - start > index / FRAME_RATE < (seconds or np.inf):
                yield _resize(previous)
                index += 1
            previous = frame
        while index / FRAME_RATE < min(previous.time - start + 1 / RATE, seconds or np.inf):
            yield _resize(previous)
            index += 1


def _resize(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_image()
    short = min(image.size)
    width, height = (int(SIZE * side / short) for side in image.size)
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image.crop((left, top, left + SIZE, top + SIZE)))


def _ours(clip: str, seconds: float | None) -> Iterator[np.ndarray]:
    return iter_frames(clip, FRAME_RATE, SIZE, seconds=seconds)


def make_clip(
    path: Path, size: tuple[int, int], seconds: int, repeats: int = 1, options: dict[str, str] | None = None
) -> Path:
    """Write an H.264 file as libx264's defaults make it, unless the file exists.

    Args:
        size: width and height in pixels.
        repeats: how many times the same ``seconds`` follow each other.
        options: of libx264.
    """
    if path.exists():
        return path
    with atomic_write(path) as part:
        if repeats == 1:
            _encode(part, size, seconds, options or {})
        else:
            once = make_clip(path.with_stem(f"{path.stem}_once"), size, seconds, 1, options)
            _repeat(once, part, seconds, repeats)
    return path


def _encode(path: Path, size: tuple[int, int], seconds: int, options: dict[str, str]) -> None:
    with av.open(str(path), "w", format="mp4") as sink:
        stream = sink.add_stream("libx264", rate=RATE, options=options)
        # PyAV's own default cuts every frame into one slice per core, which x264's and ffmpeg's do not.
        stream.codec_context.thread_type = "FRAME"
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for index, planes in enumerate(_draw_frames(size, seconds * RATE)):
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
                video = source.streams.video[0]
                stream = stream or sink.add_stream_from_template(video, opaque=True)
                for packet in source.demux(video):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        shift = round(turn * seconds / packet.time_base)
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        sink.mux(packet)


def _draw_frames(size: tuple[int, int], count: int) -> Iterator[list[np.ndarray]]:
    """Yield the Y, U and V planes of frames: a textured background swept by the camera, three textured balls, and noise."""
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
    """Return ``[height, width]`` uint8 in 16..235 with details of every size, as natural images have."""
    total = np.zeros((height, width), np.float32)
    for step in (256, 128, 64, 32, 16, 8, 4, 2):
        coarse = generator.integers(0, 256, (height // step + 2, width // step + 2), np.uint8)
        frame = av.VideoFrame.from_ndarray(coarse, format="gray")
        fine = frame.reformat(width=width, height=height, format="gray", interpolation="BICUBIC").to_ndarray()
        total += (fine.astype(np.float32) - 128) * step**0.6
    total -= total.min()
    return (16 + 219 * total / total.max()).astype(np.uint8)


if __name__ == "__main__":
    main()
