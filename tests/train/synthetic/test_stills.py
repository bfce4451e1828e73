"""Stills: the same on any number of workers, as their scenes are, and refused where they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from train.pretrain.labels import SMALL
from train.pretrain.stills import read_stills
from train.synthetic import stills
from train.synthetic.__main__ import main
from train.synthetic.dataset import Recipe
from train.synthetic.picture import Camera
from train.synthetic.scene import compose
from vta_rt.errors import OptionError

RECIPE = Recipe(4, 5.12)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stills") / "stills.safetensors"
    assert sum(stills.write_stills(out, RECIPE, 130, 40)) == 130
    return out


def test_any_number_of_workers_makes_the_same(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "again.safetensors"
    assert main([str(out), "--stills", "130", "--size", "40", "--seed", "4", "--workers", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 130 stills")
    assert out.read_bytes() == file.read_bytes()


def test_tells_what_is_there_and_no_more() -> None:
    told = [stills.still(RECIPE, index, 80) for index in range(30)]
    assert sum((one.thing >= 0).sum() for one in told) > 30
    for one in told:
        known = one.thing >= 0
        assert (one.size[known] > 0.05).all()
        assert np.isnan(one.place[~known]).all()
        assert not np.isnan(one.place[known]).any()
    wheels = [one for one in told if (one.thing == stills.NAMES.index("wheel")).any()]
    assert wheels


def test_is_compressed_as_a_clip_is() -> None:
    camera = Camera(compose(np.random.default_rng([4, 1]), 5.12))
    pictures = [camera.frame(2.0), camera.frame(2.04)]
    errors = []
    for crf in (16, 33):
        shown = stills.compressed(pictures, crf, "ultrafast").to_ndarray(format="rgb24")
        assert shown.shape == pictures[1].shape
        errors.append(np.abs(shown.astype(float) - pictures[1]).mean())
    assert errors[0] < errors[1] < 12


def test_is_read_with_classes_of_its_own(file: Path) -> None:
    every = read_stills(file, 40, sorted(stills.NAMES[:-1]))
    some = read_stills(file, 40, ["bell", "drum"])
    raw = [stills.still(RECIPE, index, 40) for index in range(130)]
    things = [labels.thing[0] for labels in some.labels]
    for one, thing, labels in zip(raw, things, every.labels, strict=True):
        names = np.array([*stills.NAMES, ""])[one.thing]
        expected = [{"bell": 0, "drum": 1, "wheel": 2}.get(name, -1) for name in names]
        assert thing.tolist() == expected
        seen = one.thing >= 0
        np.testing.assert_allclose(labels.size[0][seen], np.log2(one.size[seen] / SMALL), rtol=1e-6)
    pictures, labels = every.glance(7, np.random.default_rng(0))
    assert pictures.shape == (7, 1, 3, 40, 40)
    assert labels.place.shape == (7, 1, stills.MOST, 2)
    with pytest.raises(OptionError, match="stills of 40x40 pixels, the model takes 80x80"):
        read_stills(file, 80, ["bell"])


@pytest.mark.parametrize(("count", "side", "workers"), [(0, 40, 1), (5, 8, 1), (5, 40, 0)])
def test_what_cannot_be_is_refused(tmp_path: Path, count: int, side: int, workers: int) -> None:
    with pytest.raises(OptionError, match="is needed"):
        list(stills.write_stills(tmp_path / "no.safetensors", RECIPE, count, side, workers))
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_of_stills_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"not at all")
    for path in (other, tmp_path / "nowhere"):
        with pytest.raises(OptionError, match="is no file of stills"):
            read_stills(path, 40, ["bell"])


def test_where_nothing_can_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr(stills, "still", lambda *_: pytest.fail("worked in vain"))
    for out in (tmp_path / "folder.safetensors", tmp_path / "nowhere" / "stills.safetensors"):
        assert main([str(out), "--stills", "3", "--workers", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert str(out) in error
