"""Clips made on the spot, for tests that need videos of a known content, rate, codec or orientation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

CLOCK = Fraction(1, 90_000)  # seconds per unit of the timestamps
QUICK = {
    "libx264": {"preset": "veryfast"},  # still with B-frames
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
BITS = 8  # a frame's number is drawn as that many upright bars, the lowest bit on the left


def barcode(index: int, size: tuple[int, int]) -> np.ndarray:
    """Frame number ``index`` as white (1) and black (0) bars, ``[H, W, 3]`` uint8; survives any codec and rescaling."""
    width, height = size
    bars = (index >> np.arange(BITS)) & 1
    row = bars[np.arange(width) * BITS // width] * 255
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def read_barcode(frame: np.ndarray) -> int:
    """The number of a frame ``[H, W, 3]`` that shows all of a barcode (sampled with fit="squash")."""
    columns = frame.mean(axis=(0, 2))  # [W]
    middles = columns[(np.arange(BITS) * 2 + 1) * len(columns) // (2 * BITS)]
    return int(((middles > 127) << np.arange(BITS)).sum())


def make_clip(
    path: Path,
    *,
    seconds: float = 2.0,
    frame_rate: float | Fraction = 25,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    audio: bool | float = False,
    rotation: int | None = None,
    matrix: tuple[int, int, int, int] | None = None,
    timestamps: Sequence[float] | None = None,
    start: float = 0.0,
    draw: Callable[[int], np.ndarray] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode a clip whose frame i shows ``barcode(i)``; its suffix says the container.

    Args:
        seconds, frame_rate: length and rate; together they give the number of frames.
        size: width and height as stored.
        audio: True for a soundtrack (440 Hz) as long as the frames, a number for one of so many seconds.
        rotation: degrees clockwise by which a player shall turn the frames; ``matrix`` is the general form: the signs
            a, b, c, d of a display matrix that maps (x, y) to (a x + c y, b x + d y).
        timestamps: in seconds, one for each frame, instead of ``seconds`` and ``frame_rate``.
        start: seconds added to all timestamps of the frames, not to the sound's.
        draw: draws frame i, ``[H, W, 3]`` uint8, instead of ``barcode``.
    """
    draw = draw or (lambda index: barcode(index, size))
    rate = Fraction(frame_rate).limit_denominator(1001)
    times = [Fraction(i) / rate for i in range(round(seconds * rate))] if timestamps is None else timestamps
    turn = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    if rotation is not None:
        matrix = turn[rotation]
    with av.open(str(path), "w", container_options=container_options or {}) as sink:
        stream = sink.add_stream(codec, rate=rate, options={**QUICK.get(codec, {}), **(options or {})})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = CLOCK if timestamps is not None or start else 1 / rate
        if matrix is not None:
            a, b, c, d = (sign << 16 for sign in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        sound = None
        if audio:
            sound = sink.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=16_000, layout="mono")
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(index), format="rgb24").reformat(format=pix_fmt)
            frame.time_base = stream.codec_context.time_base
            frame.pts = round((Fraction(time) + Fraction(start)) / frame.time_base)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
        if sound is not None:
            length = round(float(times[-1] + 1 / rate if audio is True else audio) * 16_000)
            tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(length, dtype=np.float32) / 16_000)
            samples = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
            samples.sample_rate = 16_000
            sink.mux(sound.encode(samples))
            sink.mux(sound.encode(None))
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary clip: 3 s, 25 frames a second, 64 x 48, H.264 with B-frames and AAC in an .mp4. Not to be changed."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=3, audio=True)
