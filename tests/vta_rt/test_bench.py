"""What ``vta bench`` measures, on a bundle of small graphs, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vta_rt.bench import Row, measure, table
from vta_rt.bundle import Bundle
from vta_rt.cli import main
from vta_rt.errors import OptionError
from vta_rt.pipeline import Pipeline
from vta_rt.sampling import Sampling

DEMO = Path(__file__).parents[2] / "engines" / "demo"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    how = Sampling(steps=10, guidance=2.0, guidance_interval=(0.3, 5.0))
    return list(measure(Pipeline(DEMO, backend="cpu"), how, repeats=1))


def test_every_graph_of_a_generation_is_measured(rows: list[Row]) -> None:
    calls = {row.graph: row.calls for row in rows}
    assert list(calls) == ["visual_encoder", "denoiser", "denoiser_unguided", "vae_decoder", "vocoder"]
    assert calls["denoiser"] + calls["denoiser_unguided"] == 10
    assert all(row.batch == 1 for row in rows)
    assert all(row.warm > 0 and row.cold > 0 for row in rows)
    assert all(row.peak > 1e9 for row in rows)


def test_a_graph_loaded_already_is_not_cold() -> None:
    pipeline = Pipeline(DEMO, backend="cpu")
    pipeline.session("vocoder")
    cold = {row.graph: row.cold for row in measure(pipeline, Sampling(steps=1, guidance=1.0), repeats=1)}
    assert cold.pop("vocoder") is None
    assert None not in cold.values()


def test_the_table() -> None:
    rows = [
        Row("denoiser", 4, 25, 2.0, 0.1, 2e9, 3_000_000_000, 1e11),
        Row("vocoder", 4, 1, None, 0.5, None, None, None),
    ]
    heading, denoiser, vocoder, total = (" ".join(line.split()) for line in table(rows).splitlines())
    assert heading == "graph batch calls cold s warm s share Gop Gop/s peak of it GB"
    assert denoiser == "denoiser 4 25 2.00 0.1000 83% 2.0 20.0 100.0 20% 3.00"
    assert vocoder == "vocoder 4 1 n/a 0.5000 17% n/a n/a n/a n/a n/a"
    assert total == "a batch of 4: 3.00 s, 0.75 s a clip"


@pytest.mark.parametrize(("option", "message"), [({"batches": [0]}, "batch is 0"), ({"repeats": 0}, "repeats is 0")])
def test_numbers_outside_what_is_allowed(option: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        list(measure(Pipeline(DEMO, backend="cpu"), **option))


FEW = ["--steps", "2", "--guidance", "1", "--repeats", "1", "--backend", "cpu"]


def test_the_command(capsys: pytest.CaptureFixture) -> None:
    """A batch that the graphs do not take is named, beside the rows of one that they do, or alone."""
    assert main(["bench", str(DEMO), *FEW, "--batch", "1", "4"]) == 1
    shown = capsys.readouterr()
    assert f"2 steps of {Bundle(DEMO).manifest.sampling.solver}, guidance 1" in shown.out
    assert "denoiser_unguided" in shown.out
    refusal = "error: a batch of 4 is not measured: denoiser_unguided takes batches of 1 on ONNX Runtime on the CPU"
    assert shown.err.startswith(refusal)
    assert shown.err.count("\n") == 1
    assert main(["bench", str(DEMO), *FEW, "--batch", "4"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(refusal)
    assert main(["bench", str(DEMO), "--steps", "0"]) == 2


def test_the_command_in_json(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", str(DEMO), *FEW, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["graph"] for row in rows] == ["visual_encoder", "denoiser_unguided", "vae_decoder", "vocoder"]
    assert [row["calls"] for row in rows] == [1, 2, 1, 1]
    assert all(row["seconds"] == row["calls"] * row["warm"] > 0 for row in rows)
    assert {(row["bundle"], row["backend"], row["steps"]) for row in rows} == {
        (str(DEMO), "ONNX Runtime on the CPU (asked for)", 2)
    }
