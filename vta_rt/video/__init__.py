"""Video files: what one is, the frames on screen at given times, and a new soundtrack on a copy of its video stream."""

from __future__ import annotations

from vta_rt.video.containers import CONTAINERS
from vta_rt.video.frames import fit_frame, frames_of, iter_frames, probe, sample_frames
from vta_rt.video.mux import PARTS, check_mux, mux
from vta_rt.video.opening import Limits, VideoOptions
from vta_rt.video.reader import Video, VideoInfo, VideoSource

__all__ = [
    "CONTAINERS",
    "PARTS",
    "Limits",
    "Video",
    "VideoInfo",
    "VideoOptions",
    "VideoSource",
    "check_mux",
    "fit_frame",
    "frames_of",
    "iter_frames",
    "mux",
    "probe",
    "sample_frames",
]
