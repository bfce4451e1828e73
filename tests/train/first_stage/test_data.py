from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from train.first_stage.data import SoundError, Sounds, find_sounds

RATE = 16000


def test_paths_count_from_the_jsonl(tmp_path: Path) -> None:
    lines = [{"audio_file": "a/b.wav"}, {"audio_file": "/c/d.wav", "video_path": "x"}]
    (tmp_path / "train.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    assert find_sounds(tmp_path / "train.jsonl") == [tmp_path / "a/b.wav", Path("/c/d.wav")]


def test_folder_is_searched(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.WAV", "deep/a.flac", "notes.txt"):
        (tmp_path / name).touch()
    assert find_sounds(tmp_path) == [tmp_path / "b.WAV", tmp_path / "deep/a.flac"]


@pytest.mark.parametrize("line", ["{", "[1]", "{}", '{"audio_file": 3}'])
def test_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "train.jsonl").write_text('{"audio_file": "a.wav"}\n' + line)
    with pytest.raises(SoundError, match=r"train\.jsonl, line 2: .*audio_file"):
        find_sounds(tmp_path / "train.jsonl")


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(SoundError, match="holds no sound files"):
        find_sounds(tmp_path)
    with pytest.raises(SoundError, match="cannot be read"):
        find_sounds(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(SoundError, match="no lines"):
        find_sounds(tmp_path / "empty.jsonl")


def test_broken_files_are_named_and_left_out(sound_list: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound at all")
    good = sound_list.parent / "audio" / "0.wav"
    sounds = Sounds([tmp_path / "text.wav", good, tmp_path / "missing.wav"], RATE)
    assert sounds.files == [good]
    assert [line.split(":")[0] for line in sounds.broken] == [str(tmp_path / "text.wav"), str(tmp_path / "missing.wav")]
    with pytest.raises(SoundError, match=r"none of 1 .*missing\.wav"):
        Sounds([tmp_path / "missing.wav"], RATE)


def test_crops_follow_from_the_seed(sound_list: Path) -> None:
    sounds = Sounds(find_sounds(sound_list), RATE)
    crops = sounds.crops((0, 5), 4, 3000)
    assert crops.shape == (4, 3000)
    assert crops.dtype == np.float32
    np.testing.assert_array_equal(crops, sounds.crops((0, 5), 4, 3000))
    assert not np.array_equal(crops, sounds.crops((0, 6), 4, 3000))
    assert not np.array_equal(crops, sounds.crops((1, 5), 4, 3000))


def test_crops_are_parts_of_the_files(sound_list: Path) -> None:
    sounds = Sounds(find_sounds(sound_list)[:1], RATE)
    whole = sounds.wave(0)
    windows = np.lib.stride_tricks.sliding_window_view(whole, 2000)
    for crop in sounds.crops(0, 4, 2000):
        assert (windows == crop).all(axis=1).any()


def test_short_sounds_end_in_silence(sound_list: Path) -> None:
    sounds = Sounds(find_sounds(sound_list)[:1], RATE)
    crop = sounds.crops(0, 1, RATE + 500)[0]
    np.testing.assert_array_equal(crop[:RATE], sounds.wave(0))
    assert not crop[RATE:].any()


def test_without_room_in_memory_crops_are_the_same(sound_list: Path) -> None:
    files = find_sounds(sound_list)
    roomy, tight = Sounds(files, RATE), Sounds(files, RATE, cache_bytes=3 * 2 * RATE)
    np.testing.assert_array_equal(roomy.crops(7, 16, 800), tight.crops(7, 16, 800))
