"""Which container a video gets that is given none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vta_rt.conftest import make_clip
from vta_rt.errors import OptionError
from vta_rt.video import Video, choose_container, holds_copy

CLIPS = [  # suffix, codec, format of its pixels, container
    (".mp4", "libx264", "yuv420p", ".mp4"),
    (".mov", "libx264", "yuv420p", ".mov"),
    (".MOV", "libx264", "yuv420p", ".mov"),
    (".mkv", "libx264", "yuv420p", ".mkv"),
    (".webm", "libvpx-vp9", "yuv420p", ".webm"),
    (".webm", "libvpx", "yuv420p", ".webm"),
    (".mkv", "libvpx", "yuv420p", ".mkv"),
    (".mkv", "ffv1", "yuv420p", ".mkv"),
    (".mov", "prores", "yuv422p10le", ".mov"),
    (".ts", "libx264", "yuv420p", ".mp4"),
    (".m2ts", "mpeg2video", "yuv420p", ".mp4"),
    (".mpg", "mpeg1video", "yuv420p", ".mp4"),
    (".vob", "mpeg2video", "yuv420p", ".mp4"),
    (".flv", "libx264", "yuv420p", ".mp4"),
    (".3gp", "libx264", "yuv420p", ".mp4"),
    (".avi", "mpeg4", "yuv420p", ".mp4"),
    (".avi", "mjpeg", "yuvj420p", ".mp4"),
    (".avi", "ffv1", "yuv420p", ".mp4"),
    (".avi", "utvideo", "yuv422p", ".mkv"),
    (".nut", "libvpx", "yuv420p", ".mkv"),
    (".avi", "rawvideo", "bgr24", None),
    (".nut", "rawvideo", "yuv420p", None),
    (".mov", "rawvideo", "uyvy422", None),
    (".gif", "gif", "rgb8", None),  # .mov can hold it, but players do not show it
    (".apng", "apng", "rgb24", None),
    (".wmv", "wmv2", "yuv420p", ".mkv"),  # as Video for Windows
    (".flv", "flv", "yuv420p", ".mkv"),
    (".avi", "huffyuv", "yuv422p", ".mkv"),
]


@pytest.mark.parametrize(("suffix", "codec", "pix_fmt", "chosen"), CLIPS)
def test_its_own_or_the_first_that_can_hold_it(tmp_path: Path, suffix, codec, pix_fmt, chosen) -> None:
    path = make_clip(tmp_path / f"clip{suffix}", seconds=0.2, frame_rate=25, codec=codec, pix_fmt=pix_fmt)
    with Video(path) as video:
        assert choose_container(path, video.rewind().stream) == chosen


def test_a_suffix_that_says_something_else(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.webm", seconds=0.2, codec="libvpx").rename(tmp_path / "clip.mp4")
    with Video(path) as video:
        stream = video.rewind().stream
        assert choose_container(path, stream) == ".mkv"
        assert [holds_copy(f"a{suffix}", stream) for suffix in (".mp4", ".WebM")] == [False, True]
        with pytest.raises(OptionError, match=r"not \.avi"):
            holds_copy("a.avi", stream)
