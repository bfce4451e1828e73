"""What ffmpeg and ffprobe say of a file: the frames shown, the sound heard, and all that the file holds."""

from __future__ import annotations

import json
import re
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tests.files.studio import BITS

SOUND_RATE = 48_000  # samples a second at which sound is looked at
QUIET = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "info"]


def frames_shown(path: Path, stream: str = "V:0") -> list[tuple[float, int]]:
    """(time, number) of every frame, in the order of display; times are the container's own."""
    command = ["ffmpeg", *QUIET, "-copyts", "-noautorotate", "-i", path, "-map", f"0:{stream}"]
    command += ["-fps_mode", "passthrough", "-vf", f"scale={BITS}:{BITS}:flags=area,format=gray,showinfo"]
    done = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=False)
    base = re.search(rb"config in time_base: (\d+)/(\d+)", done.stderr)
    clock = Fraction(int(base[1]), int(base[2])) if base else Fraction(0)
    times = re.findall(rb"\] n: *\d+ pts: *(-?\d+) pts_time:", done.stderr)
    images = np.frombuffer(done.stdout, np.uint8).reshape(-1, BITS, BITS)
    numbers = ((images.mean(axis=1) > 127) << np.arange(BITS)).sum(axis=1)
    return [(float(int(time) * clock), int(number)) for time, number in zip(times, numbers, strict=False)]


def sound_heard(path: Path, stream: str = "a:0") -> tuple[float, np.ndarray]:
    """When the sound starts on the container's clock, and its samples ``[N]`` at ``SOUND_RATE``, silence put into gaps."""
    command = ["ffmpeg", *QUIET, "-copyts", "-i", path, "-map", f"0:{stream}", "-ac", "1"]
    command += ["-af", f"aresample={SOUND_RATE},ashowinfo", "-f", "f32le", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    starts = re.findall(rb"\] n:\d+ pts:(-?\d+) pts_time:", done.stderr)
    return (int(starts[0]) / SOUND_RATE if starts else float("nan")), np.frombuffer(done.stdout, np.float32)


def click_of(start: float, samples: np.ndarray) -> float:
    """When the loudest part of a sound sets in."""
    loud = np.abs(samples)
    return start + float(np.argmax(loud > loud.max() / 2)) / SOUND_RATE if samples.size else float("nan")


def facts(path: Path) -> dict[str, Any]:
    """What a file holds beside its frames, in words that do not depend on the container."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", "-show_chapters"]
    done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    if "format" not in found:
        return {"error": done.stderr.strip()}
    streams, tags = found["streams"], _tags(found["format"])
    video = next(
        (one for one in streams if one["codec_type"] == "video" and not one["disposition"]["attached_pic"]), {}
    )
    of = {kind: [one for one in streams if one["codec_type"] == kind] for kind in ("audio", "subtitle", "attachment")}
    side = {data["side_data_type"]: data for data in video.get("side_data_list", ())}
    matrix = side.get("Display Matrix", {})
    colour = [video.get(f"color_{part}", "unknown") for part in ("primaries", "transfer", "space")]
    timecodes = [_tags(one).get("timecode") for one in (found["format"], *streams)]
    return {
        "codec": video.get("codec_name"),
        "tag": video.get("codec_tag_string"),
        "pix_fmt": video.get("pix_fmt"),
        "aspect": _aspect(video),
        "rotation": -int(matrix.get("rotation", 0)) % 360,
        "colour": "/".join(colour),
        "range": video.get("color_range", "unknown"),
        "side": sorted(name for name in side if name != "Display Matrix"),
        "sounds": [one["codec_name"] for one in of["audio"]],
        "sound languages": [_tags(one).get("language", "und") for one in of["audio"]],
        "default sounds": [one["disposition"]["default"] for one in of["audio"]],
        "sound roles": [_roles(one) for one in of["audio"]],
        "subtitles": [one["codec_name"] for one in of["subtitle"]],
        "subtitle languages": [_tags(one).get("language", "und") for one in of["subtitle"]],
        "subtitle roles": [_roles(one) for one in of["subtitle"]],
        "attachments": [_tags(one).get("filename") for one in of["attachment"]],
        "covers": sum(one["disposition"]["attached_pic"] for one in streams),
        "chapters": [
            (round(float(one["start_time"]), 1), round(float(one["end_time"]), 1), _tags(one).get("title"))
            for one in found["chapters"]
        ],
        "timecode": next((code for code in timecodes if code), None),
        "start": float(found["format"].get("start_time", "nan")),
        "video start": float(video.get("start_time", "nan")),
        "duration": float(found["format"].get("duration", "nan")),
        "tags": tags,
        **{f"tag {name}": value for name, value in tags.items()},
    }


def _tags(part: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in part.get("tags", {}).items()}


def _roles(stream: dict[str, Any]) -> list[str]:
    return sorted(name for name, is_set in stream["disposition"].items() if is_set and name != "default")


def _aspect(video: dict[str, Any]) -> Fraction | None:
    if "width" not in video:
        return None
    pixel = video.get("sample_aspect_ratio", "1:1")
    across, down = (int(part) for part in (pixel if pixel not in ("0:1", "N/A") else "1:1").split(":"))
    return Fraction(video["width"] * across, video["height"] * down)
