"""``vta generate`` killed at random moments."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kills import kill_at_random
from tests.vta_rt.cli.driver import seconds_of_sound
from tests.vta_rt.conftest import make_clip

QUICK = ("--steps", "1", "--guidance", "1", "--backend", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["wav", "mp4", "mkv"])
def test_one_video(bundle_short: Path, tmp_path: Path, suffix: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=0.4)
    out = tmp_path / "out"
    out.mkdir()
    command = [
        "vta_rt.cli",
        "generate",
        clip,
        "--bundle",
        bundle_short,
        *QUICK,
        "--format",
        suffix,
        "--overwrite",
        "-o",
    ]
    reference: list[bytes] = []

    def is_complete(folder: Path) -> bool:
        path = folder / f"clip.{suffix}"
        if not path.exists():
            return True
        content = path.read_bytes()
        reference.append(content)
        if suffix == "mkv":  # whose identifiers are drawn anew
            return len(content) == len(reference[0]) and seconds_of_sound(path) > 0
        return content == reference[0]

    assert kill_at_random(command, out, is_complete, kills=5) == []


@pytest.mark.slow
def test_a_folder(bundle_short: Path, tmp_path: Path) -> None:
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    out.mkdir()
    make_clip(clips / "0.mp4", seconds=0.4)
    for number in range(1, 4):
        shutil.copy(clips / "0.mp4", clips / f"{number}.mp4")
    command = ["vta_rt.cli", "generate", clips, "--bundle", bundle_short, *QUICK, "--skip-existing", "-o"]
    reference: list[bytes] = []

    def is_complete(folder: Path) -> bool:
        reference.extend(path.read_bytes() for path in folder.glob("[0-9].mp4"))
        return all(content == reference[0] for content in reference)

    assert kill_at_random(command, out, is_complete, kills=5) == []
