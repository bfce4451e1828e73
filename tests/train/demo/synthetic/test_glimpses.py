"""Glimpses: the same on any number of workers, as their scenes are, and refused where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.data.events import BASE_SIZE, class_names, read_labels
from train.demo.pretrain.glimpses import read_glimpses
from train.demo.synthetic import glimpses
from train.demo.synthetic.__main__ import main
from train.demo.synthetic.dataset import WorldRecipe, write_clip
from train.demo.synthetic.render import Camera
from train.demo.synthetic.scene import compose
from vta_rt.errors import OptionError
from vta_rt.video import sample_frames

RECIPE = WorldRecipe(4, 5.12)


def write_clip_into(folder: Path, index: int) -> dict[str, Any]:
    """One clip of RECIPE and the list of its events alone."""
    for name in ("video", "audio"):
        (folder / name).mkdir()
    record = write_clip(folder, RECIPE, index)
    (folder / "events.jsonl").write_text(json.dumps(record))
    return record


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty glimpses of 40 pixels, made seven at a time."""
    out = tmp_path_factory.mktemp("glimpses") / "glimpses.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glimpses, "CHUNK", 7)
        assert list(glimpses.write_glimpses(out, RECIPE, 20, 40)) == [7, 7, 6]
    return out


def test_any_number_of_workers_makes_the_same(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glimpses, "CHUNK", 9)
    out = tmp_path / "again.safetensors"
    assert main([str(out), "--glimpses", "20", "--size", "40", "--seed", "4", "--workers", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 20 glimpses")
    assert out.read_bytes() == file.read_bytes()


def test_tells_what_is_there_and_no_more() -> None:
    told = [glimpses.make_glimpse(RECIPE, index, 80) for index in range(30)]
    wheel = glimpses.THING_NAMES.index("wheel")
    assert sum((one.thing >= 0).sum() for one in told) > 30
    for one in told:
        known = one.thing >= 0
        assert (one.size[known] > 0.05).all()
        assert np.isnan(one.place[:, ~known]).all()
        assert not one.hit[:, ~known | (one.thing == wheel)].any()
        assert not one.turns[:, one.thing != wheel].any()
    assert sum(one.hit[glimpses.INNER_FRAMES].any() for one in told) >= 15
    assert any(one.turns.any() for one in told)
    assert not np.isnan(np.concatenate([one.place[:, one.thing == wheel] for one in told], axis=1)).any()


@pytest.mark.parametrize("index", range(6))
def test_shows_and_tells_what_its_clip_does(tmp_path: Path, index: int) -> None:
    one = glimpses.make_glimpse(RECIPE, index, 80)
    record = write_clip_into(tmp_path, index)
    frames = sample_frames(tmp_path / record["video_path"], 25.0, 80)
    count = len(one.pictures)
    errors = [
        np.abs(frames[start : start + count].astype(float) - one.pictures).mean()
        for start in range(len(frames) - count)
    ]
    start = int(np.argmin(errors))
    assert errors[start] < 6
    films, materials = read_labels(tmp_path / "events.jsonl", glimpses.GLIMPSE_RATE, len(frames))
    (whole,) = films.values()
    labels = whole.crop(start, count)
    names = np.array([*glimpses.THING_NAMES, ""])[one.thing]
    known = np.isin(names, class_names(materials))
    assert [class_names(materials)[thing] for thing in labels.thing[0][known]] == names[known].tolist()
    np.testing.assert_array_equal(labels.hit[:, known], one.hit[:, known])
    np.testing.assert_allclose(labels.turns[:, known], one.turns[:, known], atol=1e-3)
    np.testing.assert_allclose(labels.place[:, known], one.place[:, known], atol=2e-3)


def test_is_compressed_as_a_clip_is() -> None:
    camera = Camera(compose(np.random.default_rng([4, 1]), 5.12))
    pictures = [camera.frame(2.0), camera.frame(2.04)]
    errors = []
    for crf in (16, 33):
        shown = glimpses.compress(pictures, crf, "ultrafast")[1].to_ndarray(format="rgb24")
        assert shown.shape == pictures[1].shape
        errors.append(np.abs(shown.astype(float) - pictures[1]).mean())
    assert errors[0] < errors[1] < 12


def test_is_read_with_classes_of_its_own(file: Path) -> None:
    every = read_glimpses(file, 40, 25.0, dict.fromkeys(sorted(glimpses.THING_NAMES[:-1]), 40.0))
    some = read_glimpses(file, 40, 25.0, {"bell": 50.0, "drum": 40.0})
    raw = [glimpses.make_glimpse(RECIPE, index, 40) for index in range(20)]
    for one, few, labels in zip(raw, some.labels, every.labels, strict=True):
        names = np.array([*glimpses.THING_NAMES, ""])[one.thing]
        expected = [{"bell": 0, "drum": 1, "wheel": 2}.get(name, -1) for name in names]
        assert few.thing.tolist() == [expected] * glimpses.GLIMPSE_FRAMES
        seen = one.thing >= 0
        np.testing.assert_allclose(labels.size[3][seen], np.log2(one.size[seen] / BASE_SIZE), rtol=1e-6)
        notes = np.where(few.thing >= 0, np.array([50.0, 40.0, np.nan])[few.thing] - 12 * few.size, np.nan)
        np.testing.assert_allclose(few.ring, np.where(np.isnan(notes), -1, notes), rtol=1e-5)
        np.testing.assert_array_equal(labels.onset, one.hit.any(1))
        for moment, struck in enumerate(one.hit * (few.thing[0] >= 0)):
            hit = [few.thing[0, thing] for thing in np.flatnonzero(struck)]
            assert few.material[moment] == (hit[0] if hit else -1)
        np.testing.assert_array_equal(labels.hit, one.hit)
        np.testing.assert_array_equal(labels.turns, one.turns)
    pictures, drawn = every.draw(7, np.random.default_rng(0))
    assert pictures.shape == (7, glimpses.GLIMPSE_FRAMES, 3, 40, 40)
    assert drawn.place.shape == (7, glimpses.GLIMPSE_FRAMES, glimpses.GLIMPSE_THINGS, 2)
    for side, rate in ((80, 25.0), (40, 30.0)):
        with pytest.raises(
            OptionError, match=f"glimpses of 40x40 pixels, 25 a second; the model takes {side}x{side}, {rate:g}"
        ):
            read_glimpses(file, side, rate, {"bell": 50.0})


@pytest.mark.parametrize(("count", "side", "workers"), [(0, 40, 1), (5, 8, 1), (5, 40, 0)])
def test_what_cannot_be_is_refused(tmp_path: Path, count: int, side: int, workers: int) -> None:
    with pytest.raises(OptionError, match="is needed"):
        list(glimpses.write_glimpses(tmp_path / "no.safetensors", RECIPE, count, side, workers))
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_of_glimpses_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"not at all")
    for path in (other, tmp_path / "nowhere"):
        with pytest.raises(OptionError, match="is no file of glimpses"):
            read_glimpses(path, 40, 25.0, {"bell": 50.0})


def test_where_nothing_can_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr(glimpses, "make_glimpse", lambda *_: pytest.fail("worked in vain"))
    for out in (tmp_path / "folder.safetensors", tmp_path / "nowhere" / "glimpses.safetensors"):
        assert main([str(out), "--glimpses", "3", "--workers", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert str(out) in error
