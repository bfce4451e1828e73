"""Sound kept in a file while it is made."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from vta_rt.audio import Audio
from vta_rt.recording import KEPT_SECONDS, Recording, open_recording

RATE = 16000
SAMPLES = np.random.default_rng(1).uniform(-1.2, 1.2, 40_001).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vta_rt" / "recordings"


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_it_is_written_as_the_sound_is(tmp_path: Path, name: str) -> None:
    with open_recording(RATE) as recording:
        for start in range(0, len(SAMPLES), 777):
            recording.append(SAMPLES[start : start + 777])
        assert (len(recording), recording.duration) == (40_001, 40_001 / RATE)
        np.testing.assert_array_equal(recording[39_990:50_000], SAMPLES[39_990:])
        recording.save(tmp_path / name)
    Audio(SAMPLES, RATE).save(tmp_path / f"b{name}")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"b{name}").read_bytes()
    np.testing.assert_array_equal(Audio.load(tmp_path / name).to_int16(), Audio(SAMPLES, RATE).to_int16())


def test_it_goes_on_where_it_was_interrupted(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_recording(RATE, {"video": "a"}) as recording:
        recording.append(SAMPLES[:100])
        raise KeyboardInterrupt
    (file,) = folder.iterdir()
    with file.open("ab") as half:
        half.write(b"ab")  # half a sample, of a process that was killed
    with open_recording(RATE, {"video": "b"}) as other:
        assert len(other) == 0
    with open_recording(RATE, {"video": "a"}) as recording:
        assert len(recording) == 100
        with open_recording(RATE, {"video": "a"}) as second:  # at the same time: has one of its own
            assert len(second) == 0
        recording.append(SAMPLES[100:])
        np.testing.assert_array_equal(recording[:], SAMPLES)
    assert not [*folder.iterdir()]


def test_what_nobody_takes_up_is_removed(folder: Path) -> None:
    folder.mkdir(parents=True)
    old, new = folder / "old.f32", folder / "new.f32"
    for file in (old, new):
        file.write_bytes(b"1234")
    os.utime(old, (0, time.time() - KEPT_SECONDS - 60))
    with open_recording(RATE, {"video": "a"}) as recording:
        assert isinstance(recording, Recording)
    assert [*folder.iterdir()] == [new]


def test_without_a_cache_folder_it_is_nameless(folder: Path) -> None:
    folder.parent.parent.mkdir()
    folder.parent.write_text("a file where the folder should be")
    with open_recording(RATE, {"video": "a"}) as recording:
        recording.append(SAMPLES)
        np.testing.assert_array_equal(recording[:10], SAMPLES[:10])
