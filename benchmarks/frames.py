"""Frames from video files: ours beside decoding everything with PyAV's defaults and resizing with Pillow, time and memory.

    python benchmarks/frames.py [--repeats 3] [--clips DIR] [--only CLIP...]

Clips are made with libx264's defaults (``benchmarks/clips.py``) and kept in DIR. Each measurement is a process of its own;
the two ways take turns (clips over a minute: once), and ratios are of the medians. ``window`` is what a model hears at
once, 10.24 s from the start; ``whole`` all of the file. Both take 2 frames a second of 224 x 224 pixels. The plain way
reads all of the file either way. CPU seconds are of all threads: where other programs run, their ratio is the one to trust,
and two cores can at best double it.
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
from itertools import islice
from pathlib import Path
from typing import Any

import av
import clips
import machine
import numpy as np
from PIL import Image

from vta_rt.video import iter_frames

SIZE, FRAME_RATE, WINDOW = 224, 2, 10.24
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
        how = CLIPS[name]
        clip = clips.make(options.clips / f"{name.replace(',', '').replace(' ', '_')}.mp4", **how)
        parts = {"window": WINDOW, "whole": None} if "repeats" in how else {"whole": None}
        for row in _compare(name, clip, parts, 1 if "repeats" in how else options.repeats):
            rows.append(row)
            print(
                f"{name:<34}{row['part']:<8}{row['plain']['seconds']:>9.2f}{row['ours']['seconds']:>9.2f}{row['ratio']:>7.1f}"
                f"{row['cpu_ratio']:>11.1f}{row['plain']['peak_mb']:>10.0f}{row['ours']['peak_mb']:>9.0f}"
                f"{row['mean_difference']:>8.4f}{row['largest_difference']:>5}",
                flush=True,
            )
            settings = {"frame_rate": FRAME_RATE, "size": SIZE, "window": WINDOW, "load": os.getloadavg()[2]}
            machine.write("frames", {**settings, "rows": rows})
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
    """The last picture with a timestamp of at most t, for every t: all are decoded, then Pillow resizes."""
    index = 0
    with av.open(clip) as container:
        previous = start = None
        for frame in container.decode(video=0):
            start = frame.time if start is None else start
            while previous is not None and frame.time - start > index / FRAME_RATE < (seconds or np.inf):
                yield _resized(previous)
                index += 1
            previous = frame
        while index / FRAME_RATE < min(previous.time - start + 1 / clips.RATE, seconds or np.inf):
            yield _resized(previous)
            index += 1


def _resized(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_image()
    short = min(image.size)
    width, height = (int(SIZE * side / short) for side in image.size)
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image.crop((left, top, left + SIZE, top + SIZE)))


def _ours(clip: str, seconds: float | None) -> Iterator[np.ndarray]:
    return iter_frames(clip, FRAME_RATE, SIZE, seconds=seconds)


if __name__ == "__main__":
    main()
