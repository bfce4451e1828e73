"""A folder of films of every kind through ``vta generate``: what is chosen for each, and what is refused before any work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.files import judge
from tests.files.films import FILMS
from tests.files.studio import Studio
from tests.vta_rt.cli.driver import generate
from vta_rt.cli.generate import PARTLY_DONE
from vta_rt.pipeline import Pipeline

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command is not installed")

CHOSEN = {
    "clock_at_26h.ts": ".mp4",
    "camcorder.m2ts": ".mp4",
    "h264_b.avi": ".mp4",
    "dvd.mpg": ".mp4",
    "starts_again.vob": ".mp4",
    "long.flv": ".mp4",
    "thumbnail_first.mkv": ".mkv",
    "recorder.webm": ".webm",
    "prores.mov": ".mov",
    "theora.ogv": ".mkv",
    "loop.gif": ".mp4",
    "loop.webp": ".mp4",
    "old.wmv": ".mkv",
    "phone.3gp": ".mov",
    "broadcast.mxf": ".mp4",
}


def make(name: str, folder: Path, stocked: Path) -> Path:
    """Makes a film of the table in a folder."""
    work = folder.parent / f"work-{name}"
    shutil.copytree(stocked, work, copy_function=os.link)
    next(film for film in FILMS if film.name == name).make(Studio(work), name)
    return Path(shutil.copy(work / name, folder / name))


def test_folder(bundle_short: Path, tmp_path: Path, stocked: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "clips").mkdir()
    for name in (*CHOSEN, "cut_before_index.mp4"):
        make(name, tmp_path / "clips", stocked)
    assert generate(bundle_short, tmp_path / "clips", "-o", tmp_path / "out", "--encode") == PARTLY_DONE
    made = {path.name for path in (tmp_path / "out").iterdir()}
    for name, suffix in CHOSEN.items():
        found = [one for one in made if one.startswith(f"{name.partition('.')[0]}.")]
        assert any(one.endswith(suffix) for one in found), (name, found)
        for one in found:
            shown = judge.frames_shown(tmp_path / "out" / one)
            assert len(shown) >= 25
            assert abs(shown[0][0]) < 0.002
    assert len(made) == len(CHOSEN)
    said = capfd.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") and "cut_before_index.mp4" in line for line in said) == 1


@pytest.mark.parametrize(
    ("name", "out", "message"),
    [
        ("cut_before_index.mp4", "out.mp4", "truncated or damaged"),
        ("sound_alone.wav", "out.mp4", "no video stream"),
        ("only_a_cover.mp4", "out.mkv", "no video stream"),
        ("recorder.webm", "out.mp4", "cannot hold vp8"),
        ("loop.webp", "out.mp4", "--encode"),
        ("ordinary.ts", "out.avi", ".mp4, .mov, .mkv, .webm"),
    ],
)
def test_refused_before_any_work(
    name: str,
    out: str,
    message: str,
    tmp_path: Path,
    stocked: Path,
    bundle_short: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    def work(*_: object, **__: object) -> None:
        pytest.fail("the model ran")

    monkeypatch.setattr(Pipeline, "generate", work)
    (tmp_path / "clips").mkdir()
    path = make(name, tmp_path / "clips", stocked)
    assert generate(bundle_short, path, "-o", tmp_path / out) == 2
    said = capfd.readouterr().err
    assert message in said
    assert said.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / out).exists()
    assert "Traceback" not in said
