"""The commands about bundles: what they print as text and as JSON, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vta_rt.cli import main
from vta_rt.cli.command import print_json

DEMO = Path(__file__).parents[3] / "engines" / "demo"


def test_a_line_of_json(capsys: pytest.CaptureFixture) -> None:
    print_json({"file": Path("a\udcff é\n.mp4"), "numbers": (1, 2.5, math.nan), "none": None, "inner": {"x": [True]}})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isascii()
    assert json.loads(line) == {
        "file": "a\udcff é\n.mp4",
        "numbers": [1, 2.5, None],
        "none": None,
        "inner": {"x": [True]},
    }


def printed(capsys: pytest.CaptureFixture, *arguments: object) -> list[dict]:
    """The objects that a command writes to standard output, where nothing else may be."""
    assert main([*map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_info_in_json(capsys: pytest.CaptureFixture) -> None:
    (info,) = printed(capsys, "info", DEMO)
    assert info["bundle"] == str(DEMO)
    assert info["precision"] == "fp16+fp32"
    files = [file for file in DEMO.iterdir() if file.suffix in (".onnx", ".data") or file.name == "references.json"]
    assert info["bytes"] == sum(file.stat().st_size for file in files)
    manifest = json.loads((DEMO / "bundle.json").read_text())
    assert info["graphs"] == manifest["graphs"]
    assert info["sampling"] == manifest["sampling"]


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """One that cannot be read stops none of the others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "mine").symlink_to(DEMO)
    models = {model["name"]: model for model in printed(capsys, "models")}
    assert models["demo"]["default"]
    assert models["mine"] == models["demo"] | {"name": "mine", "bundle": "engines/mine"}
    assert models["mine"]["seconds"] == 5.12
    assert [model["name"] for model in printed(capsys, "models", "mine")] == ["mine"]
    (tmp_path / "engines" / "torn").mkdir()
    (tmp_path / "engines" / "torn" / "bundle.json").write_text("{")
    assert main(["models"]) == 1
    shown = capsys.readouterr()
    assert "mine: 5.12 s, fp16+fp32, 4 steps, engines/mine (default)" in shown.out.splitlines()
    assert shown.err.startswith("error: engines/torn/bundle.json: is not valid JSON")


@pytest.mark.parametrize("command", ["info", "models"])
def test_a_mistyped_name_is_answered_with_those_near_it(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([command, "dmeo", "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: dmeo: no such folder, and no bundle of that name; the nearest is demo\n"
