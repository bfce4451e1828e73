"""Video files: what one is, the frames on screen at given times, and a new soundtrack on a copy of its video stream."""

from __future__ import annotations

from vta_rt.video.frames import VideoInfo, fitted, frames_of, iter_frames, probe, sample_frames

__all__ = ["VideoInfo", "fitted", "frames_of", "iter_frames", "probe", "sample_frames"]
