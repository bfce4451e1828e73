"""Lists are read as published; what is wrong in them is told by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.data.lists import read_list
from vta_rt.errors import OptionError

GOOD = {"video_path": "v.mp4", "audio_file": "a.wav"}


def test_paths_are_from_the_lists_folder_or_absolute(tmp_path: Path) -> None:
    lines = [
        GOOD | {"description": "a dog", "other": [1]},
        {"video_path": "/films/v.mp4", "feature_file": "f.npy", "audio_file": "sub/a.wav", "description": None},
        {"feature_file": "f.pt", "audio_file": "a.wav"},
        {"video_path": "v.mp4", "audio_file": ""},
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\ufeff" + json.dumps(lines[0]) + "\r\n\n" + "\n".join(map(json.dumps, lines[1:])))
    listing = read_list(path)
    assert not listing.problems
    first, second, third, fourth = listing.entries
    assert (first.name, first.video, first.audio) == (f"{path}:1", tmp_path / "v.mp4", tmp_path / "a.wav")
    assert (first.text, first.features) == ("a dog", None)
    assert second.name == f"{path}:3"
    assert (second.video, second.features) == (Path("/films/v.mp4"), tmp_path / "f.npy")
    assert (second.audio, second.text) == (tmp_path / "sub" / "a.wav", "")
    assert (third.video, third.features) == (None, tmp_path / "f.pt")
    assert fourth.audio is None  # the video's own sound


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not valid JSON (Input data was truncated)"),
        (b'{"video_path": "\xff.mp4"}', "is not valid JSON (Invalid UTF-8 encoded string)"),
        (b'["v.mp4"]', "Expected `object`, got `array`"),
        (b"17", "Expected `object`, got `int`"),
        (b"null", "Expected `object`, got `null`"),
        (b'{"audio_file": "a.wav"}', "has neither video_path nor feature_file, one of them is needed"),
        (b'{"feature_file": "f.npy"}', "has no audio_file, nor a video_path whose own sound could serve"),
        (b'{"video_path": 3, "audio_file": "a.wav"}', "Expected `str | null`, got `int` - at `$.video_path`"),
        (b'{"video_path": "v.mp4", "audio_file": ["a.wav"]}', "Expected `str | null`, got `array` - at `$.audio_file`"),
        (b'{"video_path": "v.mp4", "description": {}}', "Expected `str | null`, got `object` - at `$.description`"),
        (b"[" * 100_000, "is not valid JSON (maximum recursion depth exceeded while deserializing an object)"),
    ],
)
def test_a_wrong_line_is_named_and_the_others_stay(line: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(good + b"\n" + line + b"\n" + good + b"\n")
    listing = read_list(path)
    assert dict(listing.problems) == {f"{path}:2": reason}
    assert [entry.name for entry in listing.entries] == [f"{path}:1", f"{path}:3"]


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.jsonl: cannot be read \(No such file or directory\)"):
        read_list(tmp_path / "none.jsonl")
