"""What ``vta bench`` measures, on a bundle of small graphs, and what it prints."""

from __future__ import annotations

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
    return list(measure(Pipeline(DEMO, backend="cpu"), how, [1, 2], repeats=1))


def test_every_graph_of_a_generation_is_measured(rows: list[Row]) -> None:
    calls = {row.graph: row.calls for row in rows}
    assert list(calls) == ["visual_encoder", "denoiser", "denoiser_unguided", "vae_decoder", "vocoder"]
    assert calls["denoiser"] + calls["denoiser_unguided"] == 10
    assert all(row.batch == 1 for row in rows)  # the bundle takes no more in one call
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


def test_the_command(capsys: pytest.CaptureFixture) -> None:
    few = ["--steps", "2", "--guidance", "1", "--repeats", "1", "--backend", "cpu"]
    assert main(["bench", str(DEMO), *few]) == 0
    out = capsys.readouterr().out
    assert f"2 steps of {Bundle(DEMO).manifest.sampling.solver}, guidance 1" in out
    assert "denoiser_unguided" in out
    assert main(["bench", str(DEMO), "--steps", "0"]) == 2
