"""Every kind of input gives the sound that a path gives; what is no input is one short line."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import vta_rt
from tests.vta_rt.conftest import make_clip
from vta_rt import Frames, Pipeline, Video
from vta_rt.errors import OptionError, VideoError, VTAError

QUICK: dict[str, Any] = {"steps": 2, "guidance": 2.0}
FPS = 25


@pytest.fixture(scope="module")
def pipeline(bundle_short: Path) -> Pipeline:
    return Pipeline(bundle_short, backend="cpu")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("short") / "short.mp4", seconds=0.48, frame_rate=FPS, size=(80, 48))


@pytest.fixture(scope="module")
def frames(short: Path) -> np.ndarray:
    with av.open(str(short)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


class Stream(io.RawIOBase):
    """A binary file that has neither a name nor an end that is known, as a socket's."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._content.read(min(len(buffer), 1000))
        buffer[: len(part)] = part
        return len(part)


def begun(path: Path) -> Any:
    """A file that is open after what came before the video in it."""
    longer = path.with_suffix(".longer")
    longer.write_bytes(b"header" + path.read_bytes())
    file = open(longer, "rb")  # noqa: SIM115
    file.read(6)
    return file


KINDS: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "file": lambda path: open(path, "rb"),  # noqa: SIM115
    "unbuffered file": lambda path: open(path, "rb", buffering=0),  # noqa: SIM115
    "file not at its beginning": begun,
    "stream": lambda path: Stream(path.read_bytes()),
    "Video": Video,
    "Video of bytes": lambda path: Video(path.read_bytes()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_in_every_form(pipeline: Pipeline, short: Path, tmp_path: Path, kind: str) -> None:
    source = KINDS[kind](short)
    audio = pipeline.generate(source, **QUICK)
    np.testing.assert_array_equal(audio.samples, pipeline.generate(short, **QUICK).samples)
    if kind not in ("BytesIO", "stream", "file not at its beginning"):  # which have been read
        expected, written = tmp_path / "expected.mp4", tmp_path / "written.mp4"
        audio.mux(short, expected)
        audio.mux(source, written)
        assert written.read_bytes() == expected.read_bytes()
    if hasattr(source, "close"):
        source.close()


def test_frames_in_memory(pipeline: Pipeline, short: Path, frames: np.ndarray) -> None:
    expected = pipeline.generate(short, **QUICK).samples
    times = [5 + index / FPS for index in range(len(frames) + 1)]
    np.testing.assert_array_equal(pipeline.generate(frames, fps=FPS, **QUICK).samples, expected)
    np.testing.assert_array_equal(pipeline.generate(frames, times=times, **QUICK).samples, expected)
    np.testing.assert_array_equal(pipeline.generate(frames, times=np.array(times[:-1]), **QUICK).samples, expected)
    several = pipeline.generate([Frames(frames, FPS), short, Frames(frames, times=times)], **QUICK)
    for audio in several:
        assert len(audio.samples) == len(expected)
    np.testing.assert_array_equal(several[0].samples, several[1].samples)


def test_a_frame_is_shown_until_the_next(pipeline: Pipeline, frames: np.ndarray) -> None:
    """Ten frames of which each is shown twice as long are twenty of which each pair is the same."""
    slow = vta_rt.generate(frames[:6], bundle=pipeline.bundle.path, times=np.arange(7) * 2 / FPS, **QUICK)
    doubled = pipeline.generate(np.repeat(frames[:6], 2, axis=0), fps=FPS, **QUICK)
    np.testing.assert_array_equal(slow.samples, doubled.samples)


def test_a_single_frame(pipeline: Pipeline, frames: np.ndarray) -> None:
    assert pipeline.generate(frames[:1], fps=4, **QUICK).duration == pytest.approx(0.25)
    assert pipeline.generate(frames[:1], times=[0, 0.5], **QUICK).duration == pytest.approx(0.5)


FRAMES = np.zeros((4, 8, 8, 3), np.uint8)
WRONG: dict[str, tuple[Any, dict[str, Any]]] = {
    "a number": (3, {}),
    "an object": (object(), {}),
    "a dict": ({}, {}),
    "a set": ({"clip.mp4"}, {}),
    "None among videos": (["clip.mp4", None], {}),
    "a number among videos": ([3], {}),
    "no videos": ([], {}),
    "text that is open": (io.StringIO("clip"), {}),
    "a closed file": (None, {}),
    "bytes of no video": (b"x" * 200_000, {}),
    "no bytes": (b"", {}),
    "the beginning of a video": (None, {}),
    "frames without a rate": (FRAMES, {}),
    "frames with both": (FRAMES, {"fps": 25, "times": [0, 1, 2, 3]}),
    "one frame": (FRAMES[0], {"fps": 25}),
    "frames of floats": (FRAMES.astype(np.float32), {"fps": 25}),
    "frames with alpha": (np.zeros((4, 8, 8, 4), np.uint8), {"fps": 25}),
    "channels first": (FRAMES.transpose(0, 3, 1, 2), {"fps": 25}),
    "no frames": (FRAMES[:0], {"fps": 25}),
    "a rate of 0": (FRAMES, {"fps": 0}),
    "a rate below 0": (FRAMES, {"fps": -25}),
    "a rate that is no number": (FRAMES, {"fps": "25"}),
    "an endless rate": (FRAMES, {"fps": float("inf")}),
    "a rate that is none": (FRAMES, {"fps": float("nan")}),
    "too few times": (FRAMES, {"times": [0, 1]}),
    "too many times": (FRAMES, {"times": range(9)}),
    "times that fall": (FRAMES, {"times": [0, 2, 1, 3]}),
    "times that stay": (FRAMES, {"times": [0, 1, 1, 3]}),
    "times that are none": (FRAMES, {"times": ["a", "b", "c", "d"]}),
    "times that never end": (FRAMES, {"times": [0, 1, 2, float("inf")]}),
    "times in a table": (FRAMES, {"times": np.zeros((4, 2))}),
    "a rate for a file": ("clip.mp4", {"fps": 25}),
    "a missing file": ("clip.mp4", {}),
    "a name that no file can have": ("\0", {}),
    "a progress that is none": (FRAMES, {"fps": 25, "progress": 3}),
    "a prompt for each of others": ([Frames(FRAMES, 25)], {"text": ["a", "b"]}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_input(pipeline: Pipeline, short: Path, kind: str) -> None:
    video, options = WRONG[kind]
    if kind == "a closed file":
        with open(short, "rb") as video:
            pass
    elif kind == "the beginning of a video":
        video = short.read_bytes()[:500]
    with pytest.raises((OptionError, VideoError)) as caught:
        pipeline.generate(video, **options)
    message = str(caught.value)
    assert len(message) < 200
    assert "\n" not in message


@pytest.mark.parametrize("option", ["step", "guidence", "sed", "time_out", "frames", "negativ"])
def test_misspelt_options(pipeline: Pipeline, option: str) -> None:
    with pytest.raises(TypeError, match=option):
        pipeline.generate(FRAMES, fps=25, **{option: None})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=option):
        vta_rt.generate(FRAMES, bundle=pipeline.bundle.path, fps=25, **{option: None})  # type: ignore[call-overload]


def test_what_is_nearly_silent_is_said(
    pipeline: Pipeline, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "vta_rt")
    pipeline.generate(frames, fps=FPS, **QUICK)
    assert not caplog.messages
    monkeypatch.setattr("vta_rt.pipeline.QUIET", 2.0)
    pipeline.generate(frames, fps=FPS, **QUICK)
    assert len(caplog.messages) == 1
    assert "its sound is nearly silent" in caplog.text


def test_all_errors_are_at_the_top() -> None:
    classes = {
        name for name, value in vars(vta_rt.errors).items() if isinstance(value, type) and issubclass(value, VTAError)
    }
    assert classes <= set(vta_rt.__all__) <= set(dir(vta_rt))
    assert all(hasattr(vta_rt, name) for name in vta_rt.__all__)
