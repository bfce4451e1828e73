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


SETTINGS = {
    "data": "data.train",
    "valid": "data.valid",
    "events": "data.events",
    "glimpses": "data.glimpses",
    "window": "data.window",
    "workers": "data.workers",
    "steps": "length.steps",
    "batch": "length.batch",
    "threads": "machine.threads",
    "device": "machine.device",
    "rate": "optimizer.learning_rate",
}


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
    config = ["--config", str(values.pop("config"))]
    return config + [f"{SETTINGS.get(name, name)}={value}" for name, value in values.items() if value != ""]


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
    capsys.readouterr()
    assert main(options(films, tmp_path / "no", glimpses=str(glimpses), events="")) == 2
    assert "data.glimpses: they teach what data.events tell apart" in capsys.readouterr().err


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
        assert "was made with other settings" in capsys.readouterr().err


def test_starts_from_what_another_run_learned(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert main(options(films, first)) == 0
    more = {"start": str(first.with_suffix(".state")), "seed": "5", "rate": "1e-12"}
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
        ({"steps": "0"}, "length.steps: Expected `int` >= 1"),
        ({"seed": "-1"}, "seed: Expected `int` >= 0"),
        ({"workers": "0"}, "data.workers: Expected `int` >= 1"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"config": "nothing.toml"}, "nothing.toml: cannot be read"),
        ({"config": "demo"}, "was prepared with 25 frames a second of 16 pixels, the model takes 25 of 80"),
        ({"events": "nothing.jsonl"}, "nothing.jsonl: cannot be read"),
        ({"data": "nothing.jsonl"}, "cannot be read"),
        ({"rate": "-0.002"}, "optimizer.learning_rate: Expected `float` > 0.0"),
        ({"rate": "nan"}, "optimizer.learning_rate: Expected `float` > 0.0"),
        ({"start": "nothing.state"}, "nothing.state: has no checkpoint to go on from"),
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


def test_a_state_of_an_older_version_is_named(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tower.state").write_bytes(b"")
    assert main(options(films, tmp_path / "tower.safetensors")) == 2
    said = capsys.readouterr().err
    assert "tower.state: is of an older version" in said
    assert "delete it to begin anew" in said


def test_options_of_earlier_versions(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "tower.safetensors"
    values = {"steps": 1, "batch": 2, "window": 12, "threads": 1, "device": "cpu", "learning-rate": "1e-3", "out": out}
    clips = {"data": films / "films" / "train.jsonl", "valid": films / "films" / "valid.jsonl"}
    events = films / "world" / "events.jsonl"
    given = [f"--{name}={value}" for name, value in (values | clips | {"events": events}).items()]
    with pytest.warns(
        DeprecationWarning, match=r"write length\.steps=1 length\.batch=2 .*machine\.mixed_precision=bf16"
    ):
        assert main(["--config", str(films / "small.toml"), *given, "--bf16"]) == 0
    settings = json.loads((tmp_path / "tower.state" / "last" / "training.json").read_text())["settings"]
    assert (settings["data"]["window"], settings["machine"]["mixed_precision"]) == (12, "bf16")
