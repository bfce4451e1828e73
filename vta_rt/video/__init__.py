"""Video files: what one is, the frames on screen at given times, and a new soundtrack on a copy of its video stream."""

from __future__ import annotations

from vta_rt.video.arrays import Frames
from vta_rt.video.containers import CONTAINERS, ENCODED_CONTAINERS, choose_container, holds_copy
from vta_rt.video.encode import encode_video, is_webp
from vta_rt.video.file import Video, VideoInfo, VideoSource
from vta_rt.video.frames import fit_frame, frames_of, iter_frames, probe, read_frames, sample_frames
from vta_rt.video.mux import PARTS, Samples, check_mux, mux
from vta_rt.video.opening import SOURCES, Limits, VideoOptions
from vta_rt.video.sound import load_sound, resample

__all__ = [
    "CONTAINERS",
    "ENCODED_CONTAINERS",
    "PARTS",
    "SOURCES",
    "Frames",
    "Limits",
    "Samples",
    "Video",
    "VideoInfo",
    "VideoOptions",
    "VideoSource",
    "check_mux",
    "choose_container",
    "encode_video",
    "fit_frame",
    "frames_of",
    "holds_copy",
    "is_webp",
    "iter_frames",
    "load_sound",
    "mux",
    "probe",
    "read_frames",
    "resample",
    "sample_frames",
]
