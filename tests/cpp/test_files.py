"""``vta-rt`` reads and writes video files as ``vta`` does; VTA_RT_LIBRARY names libvta_rt, beside which the program lies."""

from __future__ import annotations

import os
import subprocess
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.cpp.binding import Library
from tests.vta_rt.conftest import make_clip
from vta_rt.cli import main
from vta_rt.manifest import MANIFEST, read_manifest
from vta_rt.video import frames_of, probe

DEMO = Path(__file__).parents[2] / "engines" / "demo"
LIBRARY = Path(os.environ.get("VTA_RT_LIBRARY", "none"))
PROGRAM = LIBRARY.parent / "vta-rt"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="VTA_RT_LIBRARY names no libvta_rt with vta-rt beside it")
QUICK = ("--steps", "1", "--guidance", "1", "--threads", "1")
# What swscale of FFmpeg 5.1 and of PyAV's FFmpeg make of the same frame, of 255, once it is resized.
FRAME_TOLERANCE = 2

CLIPS: dict[str, dict[str, Any]] = {
    "plain.mp4": {"audio": True, "seconds": 1.3},
    "ntsc.mp4": {"frame_rate": 29.97, "seconds": 1.1, "size": (178, 100)},
    "slow.mov": {"frame_rate": 8, "seconds": 2, "size": (80, 80)},
    "turned.mp4": {"rotation": 90, "size": (160, 96), "seconds": 1},
    "upside.mov": {"rotation": 180, "seconds": 1},
    "mirrored.mp4": {"matrix": (-1, 0, 0, 1), "seconds": 1},
    "large.mkv": {"size": (1280, 720), "seconds": 0.5},
    "vp9.webm": {"codec": "libvpx-vp9", "seconds": 1},
    "late.mp4": {"start": 1.5, "seconds": 1},
    "uneven.mkv": {"timestamps": [0, 0.1, 0.13, 0.5, 0.52, 0.9, 1.4]},
    "mpeg4.avi": {"codec": "mpeg4", "seconds": 1},
    "stream.ts": {"seconds": 1},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, options in CLIPS.items():
        make_clip(folder / name, **options)
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, check=False)


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def test_frames_and_durations_are_pythons(clips: Path) -> None:
    bundle = Library(LIBRARY).open(DEMO)
    manifest = read_manifest(DEMO / MANIFEST)
    for name in CLIPS:
        result = bundle.generate(clips / name, steps=1, guidance=1.0)
        frames = frames_of(clips / name, manifest.frames, manifest.model.seconds)
        (found,) = result.stage("frames")
        assert found.shape == frames.shape, name
        assert np.abs(found.astype(int) - frames).max() <= FRAME_TOLERANCE, name
        assert len(result.samples) == round(probe(clips / name).duration * 16_000), name


def test_the_program_writes_what_vta_writes(clips: Path, tmp_path: Path) -> None:
    """The same wav; in a video file the same sound, and the packets of the source, byte by byte."""
    options = ("--bundle", DEMO, *QUICK)
    done = run("generate", *(clips / name for name in CLIPS), "-o", tmp_path / "own", "--format", "wav", *options)
    assert done.returncode == 0, done.stderr
    assert (
        main(["generate", *map(str, (clips, "-o", tmp_path / "vta", "--format", "wav", "--backend", "cpu", *options))])
        == 0
    )
    for name in CLIPS:
        own, expected = (read_wav(tmp_path / folder / f"{Path(name).stem}.wav") for folder in ("own", "vta"))
        assert len(own) == len(expected), name
        assert np.abs(own - expected).max() <= 1e-3, name

    for name, suffix in (("plain.mp4", ".mp4"), ("turned.mp4", ".mov"), ("late.mp4", ".mkv"), ("vp9.webm", ".webm")):
        out = tmp_path / f"out{suffix}"
        done = run("generate", clips / name, "-o", out, *options)
        assert done.returncode == 0, done.stderr
        assert packets_of(out) == packets_of(clips / name), name
        made, source = probe(out), probe(clips / name)
        assert (made.rotation, made.has_audio) == (source.rotation, True), name
        assert made.duration == pytest.approx(source.duration, abs=1e-3), name


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.mp4",),
        ("text.mp4",),
        ("plain.mp4", "-o", "clip.mp3"),
        ("plain.mp4", "-o", "out.wav", "--format", "mp4"),
        ("plain.mp4", "--steps", "0"),
        ("plain.mp4", "--solver", "euler"),
        ("plain.mp4", "--guidance", "nan"),
        ("plain.mp4", "--guidance-interval", "3", "1"),
        ("plain.mp4", "--spacing", "cosine"),
        ("plain.mp4", "--seed", "-1"),
        ("plain.mp4", "--threads", "0"),
        ("plain.mp4", "--video-track", "3", "-o", "a.wav"),
        ("plain.mp4", "--limit", "pixels=100", "-o", "a.wav"),
        ("plain.mp4", "--limit", "colours=100"),
        ("plain.mp4", "-o", "plain.mp4"),
        ("plain.mp4", "-o", "out.webm"),
        ("plain.mp4", "-o", f"{'a' * 300}.wav"),
        ("plain.mp4", "--bundle", "/no/such"),
        ("sound.wav", "-o", "a.wav"),
        ("empty.mp4",),
        (".",),
        (),
    ],
    ids=" ".join,
)
def test_bad_input_is_told_in_the_same_words(
    clips: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(clips)
    Path("text.mp4").write_text("this is not a video\n" * 50)
    Path("empty.mp4").write_bytes(b"")
    with wave.open("sound.wav", "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    given = ["generate", *arguments, *(() if "--bundle" in arguments else ("--bundle", str(DEMO)))]
    if arguments == (".",):
        pytest.skip("folders are for vta alone")
    assert main(given) == 2
    expected = capfd.readouterr().err
    done = run(*given)
    assert done.returncode == 2
    assert done.stderr == expected.replace(", .flac", "")
    assert not list(Path().glob("*with_sound*"))
