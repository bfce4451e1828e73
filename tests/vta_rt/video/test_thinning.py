"""Frames that are left out when decoding: the ones taken are those that decoding everything gives, bit for bit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.conftest import SAMPLE_VIDEOS
from tests.vta_rt.conftest import make_clip
from vta_rt import video as videos
from vta_rt.video import thinning

X264 = {"preset": "veryfast"}
JITTER = np.cumsum(np.random.default_rng(3).integers(1, 9, 60)) / 60  # seconds; 13 a second, from 7 to 60
RATES = (0.3, 2, 7, 25, 90)

STREAMS: dict[str, dict] = {
    "default": {"options": X264},
    "pyramid.mkv": {"options": X264 | {"bf": "8", "b-pyramid": "strict", "b_strategy": "0"}},
    "flat": {"options": X264 | {"bf": "5", "b-pyramid": "none", "b_strategy": "0"}},
    "no_b": {"options": X264 | {"bf": "0"}},
    "short_groups": {"options": X264 | {"g": "9"}},
    "short_groups.ts": {"options": X264 | {"g": "9"}, "start": 0.9},
    "open_groups": {"options": X264 | {"g": "11", "x264-params": "open-gop=1:bframes=3:b-adapt=0"}},
    "open_groups.ts": {"options": X264 | {"g": "11", "x264-params": "open-gop=1:bframes=3:b-adapt=0"}},
    "refreshed": {
        "options": X264 | {"g": "12", "x264-params": "intra-refresh=1:bframes=3"}
    },  # key frames that are refreshed part by part
    "interlaced.ts": {"options": X264 | {"x264-params": "tff=1:bframes=3"}},
    "jitter": {"timestamps": JITTER, "options": X264},
    "jitter.mkv": {"timestamps": JITTER, "options": X264 | {"g": "8"}},
    "turned": {"rotation": 90, "options": X264 | {"g": "10"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "mpeg2.mkv": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "mpeg1.mkv": {"codec": "mpeg1video", "options": {"bf": "2", "g": "12"}},
    "mpeg4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "no_times.h264": {"options": X264},
    "decoding_times.avi": {"options": X264},
    "hevc": {
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=4:keyint=20"},
    },
    "vp8.mkv": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "raw.avi": {"codec": "rawvideo", "pix_fmt": "bgr24"},
}


def decode_all(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """(seconds from the first, frame) by decoding everything."""
    with videos.Video(path) as video:
        reader = video.rewind()
        shown = [(time, frame) for time, frame in reader.timeline(reader.frames()) if frame is not None]
        return [(time - shown[0][0], frame.to_ndarray(format="rgb24")) for time, frame in shown]


def expected(path: Path, rate: float, seconds: float | None = None, turns: int = 0) -> np.ndarray:
    """What ``sample_frames`` gives at 32 x 32 pixels, squashed, of frames turned clockwise ``turns`` times."""
    frames, end = decode_all(path), Fraction(seconds or videos.probe(path).duration).limit_denominator(10**6)
    step, taken = 1 / Fraction(str(rate)), []
    while len(taken) * step < end:
        taken.append([frame for time, frame in frames if time <= len(taken) * step][-1])
    upright = (np.ascontiguousarray(np.rot90(frame, -turns)) for frame in taken)
    return np.stack([videos.fit_frame(Image.fromarray(frame), 32, "squash") for frame in upright])


def decodes(monkeypatch: pytest.MonkeyPatch, path: Path, rate: float, **options: float) -> int:
    """How many frames come out of the decoder for a sampling."""
    count = 0

    def counted(*arguments: object) -> list[av.VideoFrame]:
        nonlocal count
        frames = decode(*arguments)
        count += len(frames)
        return frames

    with monkeypatch.context() as patch:
        decode = thinning.decode_packet
        patch.setattr(thinning, "decode_packet", counted)
        videos.sample_frames(path, rate, 32, fit="squash", **options)
    return count


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_frames(tmp_path: Path, name: str) -> None:
    draw = np.random.default_rng(0).integers(0, 256, (75, 48, 64, 3), np.uint8)
    clip = make_clip(
        tmp_path / (name if "." in name else f"{name}.mp4"),
        seconds=3,
        draw=lambda index: draw[index] // 4 + np.uint8(2 * index),
        **STREAMS[name],
    )
    turns = STREAMS[name].get("rotation", 0) // 90
    for rate in RATES:
        np.testing.assert_array_equal(
            videos.sample_frames(clip, rate, 32, fit="squash"), expected(clip, rate, turns=turns), err_msg=f"at {rate}"
        )
    np.testing.assert_array_equal(
        videos.sample_frames(clip, 7, 32, fit="squash", seconds=1.6), expected(clip, 7, 1.6, turns)
    )


@pytest.mark.skipif(not SAMPLE_VIDEOS.is_dir(), reason=f"the published sample videos are not at {SAMPLE_VIDEOS}")
def test_a_file_cut_by_an_edit_list() -> None:
    clip = SAMPLE_VIDEOS / "yoaSondvkw_000071.mp4"  # begins with 20 frames that are not shown
    np.testing.assert_array_equal(videos.sample_frames(clip, 2, 32, fit="squash"), expected(clip, 2))


@pytest.mark.parametrize(
    ("name", "rate", "most"),
    [
        ("flat", 2, 28),  # every sixth frame is referred to; 6 of 75 are wanted, some come before the first is known
        ("default", 2, 45),
        ("short_groups", 2, 55),  # groups of 9 frames, one wanted in 12
        ("short_groups", 0.3, 30),
        ("no_b", 2, 75),  # every frame is referred to by the next
        ("mjpeg.mov", 2, 12),
    ],
)
def test_needless_frames_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rate: float, most: int
) -> None:
    clip = make_clip(tmp_path / (name if "." in name else f"{name}.mp4"), seconds=3, **STREAMS[name])
    assert decodes(monkeypatch, clip, rate) <= most


def test_the_decoder_is_not_given_what_it_would_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet that is skipped occupies one of the decoder's threads: each packet but the closing one is a frame."""
    clip = make_clip(tmp_path / "flat.mp4", seconds=3, **STREAMS["flat"])
    given = 0

    def counted(decoder: av.VideoCodecContext, packet: av.Packet) -> list[av.VideoFrame]:
        nonlocal given
        given += packet.size > 0
        return decode(decoder, packet)

    with monkeypatch.context() as patch:
        decode = thinning.decode_packet
        patch.setattr(thinning, "decode_packet", counted)
        came_out = decodes(patch, clip, 2)
    assert came_out == given < 30


def test_parameter_sets_are_kept_beside_a_frame_that_nothing_refers_to() -> None:
    """SPS (7) and PPS (8) say by their nal_ref_idc that they are needed; what is beside them says that it is not."""
    slice_only, with_sets = b"\0\0\1\x06\0\0\1\x01\x88", b"\0\0\1\x67\0\0\1\x68\0\0\1\x01\x88"
    for data, needed in ((slice_only, False), (with_sets, True), (b"\0\0\1\x41\x88", True), (b"nothing", True)):
        assert thinning._is_referred_to(av.Packet(data), None) == needed


def test_damage_leaves_something(tmp_path: Path) -> None:
    draw = np.random.default_rng(0).integers(0, 256, (75, 48, 64, 3), np.uint8)
    clip = make_clip(tmp_path / "clip.mp4", seconds=3, draw=lambda index: draw[index], options=X264 | {"g": "10"})
    data = bytearray(clip.read_bytes())
    data[len(data) // 3 : len(data) // 2] = np.random.default_rng(0).bytes(len(data) // 2 - len(data) // 3)
    clip.write_bytes(data)
    assert videos.sample_frames(clip, 2, 32).shape == (6, 32, 32, 3)
