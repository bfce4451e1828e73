"""What is special about OpenVINO, and when it is picked; without it, only the message about that is tested."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import relative_error
from tests.vta_rt.backends.conftest import save_graph, specs
from vta_rt.backends import choose, openvino
from vta_rt.backends.openvino import OpenVinoSession
from vta_rt.bundle import Bundle
from vta_rt.errors import EngineError
from vta_rt.manifest import GraphRecord
from vta_rt.pipeline import Pipeline
from vta_rt.verification import record_file
from vta_rt.video import sample_frames

DEMO = Path(__file__).parents[3] / "engines" / "demo"


def test_only_a_graph_at_fp32_is_computed_at_fp32(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("a", (64, 3)), ("b", (3, 3)))}
    exact = feeds["a"].astype(np.float64) @ feeds["b"]
    inputs, outputs = specs(a=(64, 3), b=(3, 3)), specs(product=(64, 3))
    graph = save_graph(tmp_path / "product.onnx", [("MatMul", ["a", "b"], ["product"])], inputs, outputs)

    def error(precision: str) -> float:
        record = GraphRecord(record_file(graph), (), inputs, outputs, precision)
        return relative_error(OpenVinoSession("product", record, graph, 1).run(feeds)["product"], exact)

    assert error("fp32") < 1e-6
    assert (1e-4 < error("fp16") < 1e-2) if openvino.has_bf16() else error("fp16") < 1e-6


@pytest.mark.slow
def test_the_demo_s_graphs_give_what_onnxruntime_s_do() -> None:
    pytest.importorskip("openvino")
    found, expected = Pipeline(DEMO, backend="openvino"), Pipeline(DEMO, backend="cpu")
    assert found.backend.startswith("OpenVINO 20")
    frames = sample_frames(DEMO / "sample.mp4", 25.0, 80, seconds=1.0)
    tokens = expected.encode(frames)
    # With few steps a rounding now and then leads to another sound as good; with many it does not.
    how = {"steps": 25, "guidance": 2.0, "spacing": "trailing", "guidance_interval": (0.1, 5.0), "seed": 1}
    latents = expected.denoise(tokens, **how)
    mel = expected.decode(latents)
    assert relative_error(found.encode(frames), tokens) < 3e-2
    assert relative_error(found.denoise(tokens, **how), latents) < 5e-2
    assert relative_error(found.decode(latents), mel) < 1e-2
    assert relative_error(found.vocode(mel), expected.vocode(mel)) < 1e-3  # at fp32, as its record says


def test_a_signal_after_pipelines_that_are_gone_is_handled() -> None:
    pytest.importorskip("openvino")
    script = (
        "import faulthandler, signal, sys; from vta_rt.pipeline import Pipeline; faulthandler.enable();"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'));"
        "pipelines = [Pipeline(sys.argv[1], backend='openvino') for _ in range(2)]; pipelines.pop(0); pipelines.pop();"
        "signal.raise_signal(signal.SIGUSR1)"
    )
    run = subprocess.run([sys.executable, "-c", script, DEMO], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr


@pytest.mark.usefixtures("no_gpu")
def test_a_forked_process_cannot_use_it() -> None:
    pytest.importorskip("openvino")
    openvino.core()
    process = os.fork()
    if not process:
        try:
            openvino.core()
        except EngineError as error:
            os._exit(3 if "forked" in str(error) and choose(Bundle(DEMO))[0].name == "cpu" else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 3


@pytest.mark.usefixtures("no_gpu")
def test_it_is_picked_where_it_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    bundle = Bundle(DEMO)
    monkeypatch.setattr(openvino, "has_bf16", lambda: True)
    backend, why = choose(bundle)
    assert backend.name == "openvino"
    assert why.endswith("bf16 where the graphs are not fp32 (no GPU)")
    assert choose(bundle, below="openvino")[0].name == "cpu"
    monkeypatch.setattr(openvino, "has_bf16", lambda: False)
    assert choose(bundle)[0].name == "cpu"
    monkeypatch.setattr(openvino, "has_bf16", lambda: True)
    for name, record in bundle.manifest.graphs.items():
        bundle.manifest.graphs[name] = replace(record, precision="fp32")
    assert choose(bundle)[0].name == "cpu"
    assert choose(bundle, "openvino")[0].name == "openvino"


@pytest.mark.usefixtures("no_gpu")
def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as the import system marks what cannot be found
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose(Bundle(DEMO))[1] == "ONNX Runtime on the CPU (no GPU)"
    with pytest.raises(EngineError, match=r"OpenVINO is not installed; it comes with: pip install .vta-rt.openvino.."):
        choose(Bundle(DEMO), "openvino")
