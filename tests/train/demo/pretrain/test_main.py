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
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a world of ten clips of a second, and its clips prepared."""
    folder = tmp_path_factory.mktemp("clips")
    list(write_dataset(folder / "world", WorldRecipe(3, 1.0), 10))
    _, materials = read_labels(folder / "world" / "events.jsonl", 25.0, 24)
    (folder / "small.toml").write_text(RECIPE.replace("MATERIALS", str(len(materials))))
    listings = [read_list(folder / "world" / f"{split}.jsonl") for split in ("train", "valid")]
    list(prepare(listings, folder / "clips", Networks(read_model(folder / "small.toml")), 0.96))
    return folder


def options(clips: Path, out: Path, *changes: str, config: str | Path = "") -> list[str]:
    """Those of a short run; later settings go over earlier ones."""
    world = [f"data.{split}={clips / 'clips' / split}.jsonl" for split in ("train", "valid")]
    world += [f"data.events={clips / 'world' / 'events.jsonl'}", "data.window=12"]
    length = ["length.steps=3", "length.batch=2", "machine.threads=1"]
    return ["--config", str(config or clips / "small.toml"), *world, f"out={out}", *length, *changes]


def test_glimpses_are_what_it_sees_between_windows(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    glimpses = tmp_path / "glimpses.safetensors"
    list(write_glimpses(glimpses, WorldRecipe(8, 1.0), 20, 16))
    towers = []
    for name, more in (("clips", []), ("glimpses", [f"data.glimpses={glimpses}"])):
        assert main(options(clips, tmp_path / f"{name}.safetensors", *more)) == 0
        towers.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert towers[0] != towers[1]
    capsys.readouterr()
    assert main(options(clips, tmp_path / "no", f"data.glimpses={glimpses}", "data.events=")) == 2
    assert "data.glimpses: they teach what data.events tell apart" in capsys.readouterr().err


def test_writes_a_tower_that_opens(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tower.safetensors"
    assert main(options(clips, out)) == 0
    assert "3 steps" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "tower.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3
    encoder = open_encoder(out, read_model(clips / "small.toml").encoder)
    assert set(load_file(out)) == set(encoder.tower.state_dict())
    before = out.read_bytes()
    assert main(options(clips, out)) == 0  # done already
    assert out.read_bytes() == before


def test_goes_on_with_no_other_run(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tower.safetensors"
    assert main(options(clips, out)) == 0
    for change in ("length.steps=4", f"data.valid={clips / 'clips' / 'train.jsonl'}"):
        assert main(options(clips, out, change)) == 2
        assert "was made with other settings" in capsys.readouterr().err


def test_starts_from_what_another_run_learned(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert main(options(clips, first)) == 0
    more = [f"start={first.with_suffix('.state')}", "seed=5", "optimizer.learning_rate=1e-12"]
    assert main(options(clips, second, *more)) == 0
    learned, kept = (load_file(path)["when.value.weight"] for path in (first, second))
    assert torch.allclose(kept, learned, atol=1e-6)  # by chance they would differ by tenths
    assert main(options(clips, second, *more)) == 0  # done already
    (clips / "other.toml").write_text(
        (clips / "small.toml").read_text().replace("dilations = [1]", "dilations = [1, 2]")
    )
    capsys.readouterr()
    assert main(options(clips, tmp_path / "no.safetensors", *more, config=clips / "other.toml")) == 2
    assert "the run to start from has other networks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("length.steps=0", "length.steps: Expected `int` >= 1"),
        ("seed=-1", "seed: Expected `int` >= 0"),
        ("data.workers=0", "data.workers: Expected `int` >= 1"),
        ("machine.device=abacus", "device 'abacus' cannot be used here"),
        ("config=nothing.toml", "nothing.toml: cannot be read"),
        ("config=demo", "was prepared with 25 frames a second of 16 pixels, the model takes 25 of 80"),
        ("data.events=nothing.jsonl", "nothing.jsonl: cannot be read"),
        ("data.train=nothing.jsonl", "nothing.jsonl: no such file or folder"),
        ("optimizer.learning_rate=-0.002", "optimizer.learning_rate: Expected `float` > 0.0"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate: Expected `float` > 0.0"),
        ("start=nothing.state", "nothing.state: has no checkpoint to go on from"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    config = change.removeprefix("config=") if change.startswith("config=") else ""
    changes = [] if config else [change]
    assert main(options(clips, tmp_path / "tower.safetensors", *changes, config=config)) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_state_of_an_older_version_is_named(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tower.state").write_bytes(b"")
    assert main(options(clips, tmp_path / "tower.safetensors")) == 2
    said = capsys.readouterr().err
    assert "tower.state: is of an older version" in said
    assert "delete it to begin anew" in said


def test_options_of_earlier_versions(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "tower.safetensors"
    values = {"steps": 1, "batch": 2, "window": 12, "threads": 1, "device": "cpu", "learning-rate": "1e-3", "out": out}
    data = {"data": clips / "clips" / "train.jsonl", "valid": clips / "clips" / "valid.jsonl"}
    events = clips / "world" / "events.jsonl"
    given = [f"--{name}={value}" for name, value in (values | data | {"events": events}).items()]
    with pytest.warns(
        DeprecationWarning, match=r"write length\.steps=1 length\.batch=2 .*machine\.mixed_precision=bf16"
    ):
        assert main(["--config", str(clips / "small.toml"), *given, "--bf16"]) == 0
    settings = json.loads((tmp_path / "tower.state" / "last" / "training.json").read_text())["settings"]
    assert (settings["data"]["window"], settings["machine"]["mixed_precision"]) == (12, "bf16")
