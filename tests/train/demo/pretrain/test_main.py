"""The command, on generated clips."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.data.events import read_labels
from train.data.lists import read_list
from train.data.networks import open_encoder
from train.data.prepare import Networks, prepare
from train.demo.pretrain.__main__ import main
from train.demo.synthetic.dataset import WorldRecipe, write_dataset
from train.demo.synthetic.glimpses import write_glimpses
from train.settings import read_model

RECIPE = """
[model]
frame_rate = 25.0
[model.encoder]
kind = "motion"
channels = [8, 8, 8]
dilations = [1]
image_size = 16
projection = 128
materials = MATERIALS
tokens_dim = 8
"""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a world of ten clips of a second, and its films prepared."""
    folder = tmp_path_factory.mktemp("films")
    list(write_dataset(folder / "world", WorldRecipe(3, 1.0), 10))
    _, materials = read_labels(folder / "world" / "events.jsonl", 25.0, 24)
    (folder / "small.toml").write_text(RECIPE.replace("MATERIALS", str(len(materials))))
    listings = [read_list(folder / "world" / f"{split}.jsonl") for split in ("train", "valid")]
    list(prepare(listings, folder / "films", Networks(read_model(folder / "small.toml")), 0.96))
    return folder


def options(films: Path, out: Path, **changes: str) -> list[str]:
    values = {
        "config": films / "small.toml",
        "data": films / "films" / "train.jsonl",
        "valid": films / "films" / "valid.jsonl",
        "events": films / "world" / "events.jsonl",
        "out": out,
        "steps": "3",
        "batch": "2",
        "window": "12",
        "threads": "1",
    } | changes
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def test_glimpses_are_what_it_sees_between_windows(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    glimpses = tmp_path / "glimpses.safetensors"
    list(write_glimpses(glimpses, WorldRecipe(8, 1.0), 20, 16))
    towers = []
    for name, more in (("films", {}), ("glimpses", {"glimpses": str(glimpses)})):
        assert main(options(films, tmp_path / f"{name}.safetensors", **more)) == 0
        towers.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert towers[0] != towers[1]
    arguments = options(films, tmp_path / "no", glimpses=str(glimpses))
    at = arguments.index("--events")
    capsys.readouterr()
    assert main(arguments[:at] + arguments[at + 2 :]) == 2
    assert "--glimpses teach what --events tell apart" in capsys.readouterr().err


def test_writes_a_tower_that_opens(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tower.safetensors"
    assert main(options(films, out)) == 0
    assert "3 steps" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "tower.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3
    encoder = open_encoder(out, read_model(films / "small.toml").encoder)
    assert set(load_file(out)) == set(encoder.tower.state_dict())
    before = out.read_bytes()
    assert main(options(films, out)) == 0  # done already
    assert out.read_bytes() == before


def test_goes_on_with_no_other_run(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tower.safetensors"
    assert main(options(films, out)) == 0
    for changes in ({"steps": "4"}, {"valid": str(films / "films" / "train.jsonl")}):
        assert main(options(films, out, **changes)) == 2
        assert "other settings or data" in capsys.readouterr().err


def test_starts_from_what_another_run_learned(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert main(options(films, first)) == 0
    more = {"start": str(first.with_suffix(".state")), "seed": "5", "learning-rate": "1e-12"}
    assert main(options(films, second, **more)) == 0
    learned, kept = (load_file(path)["when.value.weight"] for path in (first, second))
    assert torch.allclose(kept, learned, atol=1e-6)  # by chance they would differ by tenths
    assert main(options(films, second, **more)) == 0  # done already
    (films / "other.toml").write_text(
        (films / "small.toml").read_text().replace("dilations = [1]", "dilations = [1, 2]")
    )
    capsys.readouterr()
    assert main(options(films, tmp_path / "no.safetensors", **more, config=str(films / "other.toml"))) == 2
    assert "the run to start from has other networks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": "0"}, "steps is 0, a whole number of 1 or more is needed"),
        ({"seed": "-1"}, "seed is -1, a whole number of 0 or more is needed"),
        ({"workers": "0"}, "workers is 0, a whole number of 1 or more is needed"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"config": "nothing.toml"}, "nothing.toml: cannot be read"),
        ({"config": "demo"}, "was prepared with 25 pictures a second of 16 pixels, the model takes 25 of 80"),
        ({"events": "nothing.jsonl"}, "nothing.jsonl: cannot be read"),
        ({"data": "nothing.jsonl"}, "cannot be read"),
        ({"learning-rate": "-0.002"}, "learning-rate is -0.002, a number above 0 is needed"),
        ({"learning-rate": "nan"}, "learning-rate is nan, a number above 0 is needed"),
        ({"start": "nothing.state"}, "nothing.state: cannot be read as the state of a run"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], said: str
) -> None:
    assert main(options(films, tmp_path / "tower.safetensors", **changes)) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_is_named(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tower.state").write_bytes(b"nothing of the kind")
    assert main(options(films, tmp_path / "tower.safetensors")) == 2
    said = capsys.readouterr().err
    assert "tower.state: cannot be read" in said
    assert "delete it to begin anew" in said
