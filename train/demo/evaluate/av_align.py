"""AV-Align: how well peaks of sound and of motion coincide in a video of which nothing else is known.

Defined by Yariv et al., "Diverse and Aligned Audio-to-Video Generation via Text-to-Video Model Adaptation" (TempoTokens,
AAAI 2024, arXiv 2309.16429): audio peaks are onsets, video peaks the local maxima of the mean optical-flow magnitude from
frame to frame (Farneback's, with the same parameters); an audio peak is matched if a video peak lies less than one frame
away; the score is matches / (audio peaks + video peaks - matches).

What differs: onsets are found by ``train.onsets`` and not by librosa's detector; flow is taken between frames reduced to 240
lines; times are the frames' own and not their number over the rate; a video without any peak has no score where the
published code divides by zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.onsets import detect_onsets
from vta_rt.errors import VTAError
from vta_rt.video import Video

FLOW_HEIGHT = 240  # to which larger frames are reduced
FARNEBACK = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "flags": 0}


@dataclass(frozen=True)
class AVAlign:
    """One video's score and the counts behind it."""

    video: str
    audio_peaks: int
    video_peaks: int
    matches: int

    @property
    def score(self) -> float | None:
        """Intersection over union; None where there is no peak at all."""
        union = self.audio_peaks + self.video_peaks - self.matches
        return self.matches / union if union else None


def av_align(video: Path, wave: np.ndarray) -> AVAlign:
    """Score a wave [samples] at 16 kHz as the sound of a video.

    Raises:
        VideoError: the video cannot be read.
        VTAError: OpenCV is missing.
    """
    times, motion = measure_motion(video)
    frame = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return align(str(video), detect_onsets(wave), find_motion_peaks(times, motion), frame)


def align(name: str, audio: Sequence[float] | np.ndarray, video: Sequence[float] | np.ndarray, frame: float) -> AVAlign:
    """Score peaks in seconds: an audio peak is matched if a video peak lies less than ``frame`` seconds away."""
    near = np.abs(np.subtract.outer(np.asarray(audio, float), np.asarray(video, float))) < frame
    return AVAlign(name, len(audio), len(video), int(near.any(axis=1).sum()) if near.size else 0)


def find_motion_peaks(times: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Times [K] at which motion [N] is larger than just before and just after."""
    middle = motion[1:-1]
    return times[1:-1][(middle > motion[:-2]) & (middle > motion[2:])]


def measure_motion(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times of a video's frames from its first, and the mean flow magnitude from the frame before: ([N], [N]).

    The first frame, which has none before it, gets the second's magnitude.

    Raises:
        VideoError: the video cannot be read.
        VTAError: OpenCV is missing.
    """
    try:
        from cv2 import calcOpticalFlowFarneback
    except ModuleNotFoundError as error:
        raise VTAError("opencv is not installed; AV-Align needs: pip install opencv-python-headless") from error

    flow_between: Any = calcOpticalFlowFarneback  # its type hints want an array to write to
    times, magnitudes, previous = [], [], None
    with Video(video) as opened:
        reader = opened.rewind()
        for time, frame in reader.timeline(reader.frames()):
            if frame is None:
                continue
            scale = min(1.0, FLOW_HEIGHT / frame.height)
            grey = frame.reformat(round(frame.width * scale), round(frame.height * scale), "gray").to_ndarray()
            if previous is not None:
                flow = flow_between(previous, grey, None, **FARNEBACK)  # [H, W, 2]
                magnitudes.append(float(np.linalg.norm(flow, axis=-1).mean()))
            times.append(float(time))
            previous = grey
    return np.asarray(times) - times[0] if times else np.zeros(0), np.asarray(magnitudes[:1] + magnitudes)
