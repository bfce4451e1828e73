"""Events as labels of frames."""

import json
from pathlib import Path

import numpy as np
import pytest

from train.data.events import MIN_NOTE, read_labels, stack_labels
from train.demo.pretrain.losses import most_hit
from vta_rt.errors import OptionError

RECORD = {
    "video_path": "video/0.mp4",
    "events": [
        {"time": 0.10, "material": "wood", "pitch": 440.0, "size": 0.2, "level": -8.0},
        {"time": 0.21, "material": "bell", "pitch": 880.0 * 1.01, "size": 0.1, "level": -24.0},
        {"time": 9.0, "material": "bell", "pitch": 880.0 * 1.01, "size": 0.1, "level": -24.0},  # after the last frame
    ],
    "continuous": [{"step": 0.08, "speed": [1.0, 2.0]}, {"step": 0.04, "speed": [0.5] * 10}],
    "step": 0.04,
    "things": [
        {"material": "wood", "size": 0.2, "hits": [0.10, 9.0], "places": [None, *[[500, 250]] * 3]},
        {"material": "tin", "size": 0.2, "hits": [], "places": [[0, 0]]},  # of which nothing is heard
        {"material": "wheel", "size": 0.1, "hits": [], "places": [[900, 100], [910, 100]]},
    ],
}


def test_events_fall_on_their_frames(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(json.dumps(RECORD) + "\n")
    labels, materials = read_labels(tmp_path / "events.jsonl", 25.0, 8)
    assert materials == pytest.approx(
        {"bell": 48 + 12 * np.log2(1.01), "wood": 48}
    )  # MIDI 81, of A5, at the size BASE_SIZE
    assert list(materials) == ["bell", "wood"]
    clip = labels[str((tmp_path / "video/0.mp4").resolve())]
    assert np.flatnonzero(clip.onset).tolist() == [2, 5]
    assert clip.material[[2, 5, 6]].tolist() == [1, 0, -1]
    assert (clip.note[[2, 5]] + MIN_NOTE).tolist() == pytest.approx(
        [69, 69 + 12 * np.log2(RECORD["events"][1]["pitch"] / 440)]
    )
    np.testing.assert_allclose(clip.level[[2, 5, 0]], [1.0, -1.0, 0.0])
    np.testing.assert_allclose(clip.speed[:4], [1.5, 2.0, 2.5, 2.5])
    assert clip.crop(2, 3).onset.tolist() == [1, 0, 0]
    assert clip.thing[0, :4].tolist() == [1, -1, 2, -1]
    np.testing.assert_allclose(clip.size[0, :4], [1.0, 0.0, 0.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(clip.ring[0, :4], [36.0, -1, -1, -1], rtol=1e-5)
    np.testing.assert_allclose(clip.transform(False, 2.0, 0, 0).ring[0, :4], [24.0, -1, -1, -1], rtol=1e-5)
    assert np.argwhere(clip.hit).tolist() == [[2, 0]]
    np.testing.assert_allclose(clip.turns[:4, 2], [1.0, 1.5, 2.0, 2.0])
    assert np.isnan(clip.place[0, [0, 1, 3]]).all()
    np.testing.assert_allclose(clip.place[1:3, 0], [[0.5, 0.25]] * 2)
    np.testing.assert_allclose(clip.place[[0, 1, 7], 2, 0], [0.9, 0.91, 0.91])  # the last one known holds
    np.testing.assert_allclose(clip.transform(True, 1.0, 0.1, -0.1).place[0, 2], [0.2, 0.0], atol=1e-6)
    assert stack_labels([clip, clip]).note.shape == (2, 8)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 100_000,
        json.dumps(RECORD | {"events": [RECORD["events"][0] | {"time": -0.5}]}),
        json.dumps(RECORD | {"events": [RECORD["events"][0] | {"time": float("inf")}]}),
        json.dumps(RECORD | {"events": [RECORD["events"][0] | {"level": float("nan")}]}),
        "[]\n",
        '{"events": []}\n',
        '{"video_path": 3, "events": [], "continuous": [], "things": []}\n',
    ],
)
def test_what_is_no_list_of_events_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "events.jsonl").write_text(text)
    with pytest.raises(OptionError, match=r"events\.jsonl(: is not a list of events|, line 1: )"):
        read_labels(tmp_path / "events.jsonl", 25.0, 8)
    with pytest.raises(OptionError, match=r"none\.jsonl: cannot be read"):
        read_labels(tmp_path / "none.jsonl", 25.0, 8)


def test_the_moments_in_which_most_is_hit() -> None:
    onset = np.zeros((4, 40), np.float32)
    onset[0, [3, 20, 24]] = 1  # the two lie in the middle, not at an end
    onset[1, 39] = 1
    onset[2, 10] = 1
    first, last, alone, none = most_hit(onset, 9)
    assert first in (17, 18, 19)
    assert last == 31  # as late as the clip lets it
    assert alone == 6
    assert none == 0
    assert most_hit(onset[:, :5], 9) == [0, 0, 0, 0]  # clips that are shorter are taken whole
