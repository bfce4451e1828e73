"""Files from strangers: only self-contained media is read, and no file may ask for more than the limits allow."""

from __future__ import annotations

import http.server
import itertools
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.vta_rt.conftest import make_clip
from vta_rt import video as videos
from vta_rt.errors import OptionError, VideoError


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that nobody asked for."""
    return make_clip(tmp_path_factory.mktemp("private") / "secret.ts", seconds=1)


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[str, list[str]]]:
    """An address, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
    '<Period><AdaptationSet mimeType="video/mp2t"><Representation id="0" bandwidth="1"><BaseURL>{}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
TEXTS = {
    "hls": HLS,
    "hls, key": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI={0}\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n",
    "hls, map": '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-MAP:URI="{0}"\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n',
    "hls, master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{}\n",
    "dash": DASH,
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "sdp": SDP,
    "subtitles": "1\n00:00:00,000 --> 00:00:01,000\n{}\n",
    "ass": "[Script Info]\n; {}\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,,,0,0,0,,x\n",
    "smil": '<smil><body><video src="{}"/></body></smil>',
    "lavfi": "movie={}",
    "ref": "[Reference]\nRef1={}\n",
}
TARGETS: dict[str, Callable[[Path, str], str]] = {
    "path": lambda secret, _: str(secret),
    "relative": lambda secret, _: f"../{secret.parent.name}/{secret.name}",
    "file": lambda secret, _: f"file:{secret}",
    "pattern": lambda secret, _: f"concat:{secret}|{secret}",
    "subfile": lambda secret, _: f"subfile,,start,0,end,0,,:{secret}",
    "http": lambda _, address: f"{address}/clip.ts",
}


@pytest.mark.parametrize("suffix", [".m3u8", ".mp4"])
@pytest.mark.parametrize("text", TEXTS)
def test_no_other_file_or_address(tmp_path: Path, secret: Path, listener, text: str, suffix: str) -> None:
    address, asked = listener
    for name, target in TARGETS.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_text(TEXTS[text].format(target(secret, address)))
        for read in (videos.probe, videos.sample_frames):
            with pytest.raises(VideoError) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: ")
            assert "\n" not in str(caught.value)
    assert asked == []


@pytest.mark.parametrize("name", ["frame%03d.png", "frame*.png", "frame.png", "-", "pipe:0", "http://127.0.0.1:9/a"])
def test_a_name_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path, name: str) -> None:
    """Neither a pattern nor a protocol: a video of such a name is read, images beside it are not."""
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "frame001.png", codec="png", pix_fmt="rgb24", seconds=0.04, container_options={"update": "1"})
    with pytest.raises(VideoError, match="no such file"):
        videos.probe(name)
    if "/" not in name:
        Path(name).write_bytes(clip.read_bytes())
        assert videos.probe(name) == videos.probe(clip)


def test_a_playlist_that_is_trusted(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "list.m3u8").write_text(HLS.format(secret))
    with videos.Video(tmp_path / "list.m3u8", videos.VideoOptions(playlist=True)) as video:
        assert video.info.duration == pytest.approx(1, abs=0.05)


def write_gif(path: Path, width: int, height: int) -> Path:
    """A few bytes that say how large their one pixel's canvas is."""
    size, pixel = struct.pack("<HH", width, height), struct.pack("<HHHH", 0, 0, 1, 1)
    path.write_bytes(b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff," + pixel + b"\0\x02\x02\x44\x01\x00;")
    return path


@pytest.mark.parametrize("size", [(1, 65535), (65535, 1), (65535, 65535), (30000, 30000), (16000, 16000)])
def test_sizes_that_a_header_claims(tmp_path: Path, size: tuple[int, int]) -> None:
    """In a process of its own, which says how much memory it took at most."""
    path = write_gif(tmp_path / "clip.gif", *size)
    code = (
        "import resource, sys; from vta_rt import VTAError, video\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: print(video.sample_frames(sys.argv[1]).shape)\n"
        "except VTAError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    result, mebibytes = done.stdout.splitlines()
    if size[0] * size[1] <= videos.Limits.pixels:
        assert result == "(1, 224, 224, 3)"
    else:
        assert result == f"{path}: none of its frames can be decoded within the limit pixels, {videos.Limits.pixels}"
    assert int(mebibytes) < 1024


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("pixels=3071", "its frames are 64 x 48 pixels, the limit pixels is 3071"),
        ("frame_rate=24", "has 25 frames a second, the limit frame_rate is 24"),
        ("streams=1", "has 2 streams, the limit streams is 1"),
        ("seconds=2", "is 3 s long, the limit seconds is 2"),
    ],
)
def test_limits(clip: Path, limit: str, message: str) -> None:
    with (
        pytest.raises(VideoError, match=message),
        videos.Video(clip, videos.VideoOptions(limits=videos.Limits.read([limit]))) as video,
    ):
        _ = video.info


def test_the_number_of_packets_is_limited(clip: Path, tmp_path: Path) -> None:
    options = videos.VideoOptions(limits=videos.Limits(packets=74))
    with (
        videos.Video(clip, options) as video,
        pytest.raises(VideoError, match="more frames than 74, the limit packets"),
    ):
        videos.check_mux(video, tmp_path / "out.mp4")


def test_the_time_of_reading_is_limited(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("vta_rt.video.reader.monotonic", lambda: float(next(clock)))
    options = videos.VideoOptions(limits=videos.Limits(read_seconds=20))
    with (
        videos.Video(clip, options) as video,
        pytest.raises(VideoError, match=r"takes more than 20 s to read, the limit"),
    ):
        videos.sample_frames(video)


@pytest.mark.parametrize(
    "pair", ["pixels", "pixels=", "pixels=0", "pixels=-1", "pixels=1e9", "pixels=9" + "9" * 400, "size=3", "=", ""]
)
def test_bad_limits(pair: str) -> None:
    with pytest.raises(OptionError) as caught:
        videos.Limits.read([pair])
    assert len(str(caught.value)) < 300


def test_a_far_timestamp(tmp_path: Path) -> None:
    """Two frames, the second of which comes after a thousand years."""
    path = make_clip(tmp_path / "clip.mkv", timestamps=[0.0, 3.2e10])
    with pytest.raises(VideoError, match="the limit seconds is"):
        videos.sample_frames(path)


def test_a_file_that_is_replaced_while_it_is_used(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    with videos.Video(path) as video:
        frames = videos.sample_frames(video)
        path.unlink()
        path.write_text("something else")
        np.testing.assert_array_equal(videos.sample_frames(video), frames)  # still the file that was opened
        video.close()
        with pytest.raises(VideoError, match="was replaced or changed while it was in use"):
            videos.sample_frames(video)


def test_descriptors_are_given_back(clip: Path, tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("descriptors are counted by Linux")
    (tmp_path / "text.mp4").write_text("text" * 100)
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        videos.sample_frames(clip)
        videos.probe(clip)
        with pytest.raises(VideoError):
            videos.probe(tmp_path / "text.mp4")
    assert len(list(descriptors.iterdir())) == before


def test_track_options(clip: Path) -> None:
    for track in (-1, True, "0"):
        with pytest.raises(OptionError, match="an integer from 0 is needed"):
            videos.VideoOptions(track=track)  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="has 1 video streams, 0 to 0, and no track 1"):
        videos.Video(clip, videos.VideoOptions(track=1))
