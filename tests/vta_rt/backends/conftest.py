"""The stand-in machine, and graphs of a few lines that it runs as engines and the host runs as themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.vta_rt.backends.stand_in import Machine
from vta_rt import backends
from vta_rt.backends.base import Array, Lane, Session
from vta_rt.backends.tensorrt.cuda import Lanes
from vta_rt.config import ModelConfig
from vta_rt.errors import DeviceError
from vta_rt.manifest import TensorSpec
from vta_rt.sampling import SamplingPlan

MODEL = ModelConfig(seconds=0.16, mel_bins=16, latent_channels=2, token_width=3)
TOKENS, CONTEXT = 4, 6


def specs(**shapes: tuple[int | str, ...]) -> tuple[TensorSpec, ...]:
    types = {"frames": "uint8", "token_mask": "bool", "negative_mask": "bool", "token_ids": "int64"}
    return tuple(TensorSpec(name, shape, types.get(name, "float32")) for name, shape in shapes.items())


def save_graph(
    path: Path,
    nodes: list[tuple[str, list[str], list[str]]],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> Path:
    """An ONNX file named after its graph, of float32 tensors and nodes ``(operator, inputs, outputs)``."""
    ends = [
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in tensors]
        for tensors in (inputs, outputs)
    ]
    body = helper.make_graph([helper.make_node(*node) for node in nodes], path.stem, *ends)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@dataclass(frozen=True)
class Kernel:
    """An engine of the stand-in."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compute: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    activations: int  # bytes that it asks for


def kernels(batch: int) -> dict[str, Kernel]:
    """The graphs of a bundle that takes prompts at one batch, each of a few lines, each depending on all its inputs."""
    state = MODEL.latent_shape(batch)
    mel = (batch, 1, MODEL.mel_frames, MODEL.mel_bins)

    def encode(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"tokens": feeds["frames"].mean((1, 2), dtype=np.float32) / 64 - 2}

    def denoise(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        p, q, a, b, c, s, guidance, _ = feeds["step"]
        heard = (feeds["tokens"].mean(-1) * feeds["token_mask"]).sum(-1) + feeds["timestep"] / 1000
        if "negative_tokens" in feeds:
            heard = heard - (feeds["negative_tokens"].mean(-1) * feeds["negative_mask"]).sum(-1) / 2
        x = feeds["latents"]
        denoised = p * x + q * (np.tanh(x) + guidance * heard[:, None, None, None])
        return {
            "latents_next": a * x + b * denoised + c * feeds["previous"] + s * feeds["noise"],
            "denoised": denoised,
        }

    def encode_text(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"tokens": (feeds["token_ids"] @ np.ones((CONTEXT, 3), np.float32) / 9).astype(np.float32)}

    def decode(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        wide = feeds["latents"].mean(1, keepdims=True)
        return {"mel": wide.repeat(MODEL.latent_stride, 2).repeat(MODEL.latent_stride, 3)}

    def vocode(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"wave": np.tanh(feeds["mel"].mean((1, 3))).repeat(MODEL.hop_length, 1)}

    step = specs(
        latents=state,
        previous=state,
        noise=state,
        tokens=(batch, TOKENS, 3),
        token_mask=(batch, TOKENS),
        timestep=(batch,),
        step=(8,),
    )
    negative = specs(negative_tokens=(batch, TOKENS, 3), negative_mask=(batch, TOKENS))
    stepped = specs(latents_next=state, denoised=state)
    return {
        "visual_encoder": Kernel(specs(frames=(TOKENS, 8, 8, 3)), specs(tokens=(TOKENS, 3)), encode, 1000),
        "text_encoder": Kernel(specs(token_ids=(1, CONTEXT)), specs(tokens=(1, 3)), encode_text, 700),
        "denoiser": Kernel((*step, *negative), stepped, denoise, 3000),
        "denoiser_unguided": Kernel(step, stepped, denoise, 3000),
        "vae_decoder": Kernel(specs(latents=state), specs(mel=mel), decode, 5000),
        "vocoder": Kernel(specs(mel=mel), specs(wave=(batch, MODEL.samples)), vocode, 500),
    }


class HostSession(Session):
    """The same graphs computed in place, any batch: what every other way must agree with."""

    def __init__(self, name: str, kernel: Kernel, *, open_batch: bool = True) -> None:
        def opened(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            if not open_batch or name.endswith("_encoder"):
                return specs
            return tuple(
                TensorSpec(s.name, s.shape if s.name == "step" else ("batch", *s.shape[1:]), s.dtype) for s in specs
            )

        super().__init__(name, Kernel(opened(kernel.inputs), opened(kernel.outputs), kernel.compute, 0))
        self._compute = kernel.compute

    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]:
        return {name: np.asarray(value, np.float32) for name, value in self._compute(feeds).items()}


@dataclass
class Source:
    """Engines of one batch, like ``vta_rt.backends.tensorrt.engines.Engines``, but without files."""

    machine: Machine
    batch: int
    records: dict[str, Kernel] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records = kernels(self.batch)
        self.machine.kernels |= {f"{name} {self.batch}": kernel for name, kernel in self.records.items()}

    def load(self, graph: str) -> bytes:
        self.loaded.append(graph)
        return f"{graph} {self.batch}".encode()


def in_threads(work: Callable[[int], object], count: int) -> None:
    """Call ``work`` with 0, 1, ... in as many threads at the same time; what fails in one fails here."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def refuse(error: Exception) -> Callable[..., Any]:
    def make(*_: object) -> None:
        raise error

    return make


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_tensorrt", "_cuda"):
        monkeypatch.setattr(backends, name, refuse(DeviceError("no GPU")))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """In place of the CUDA bindings."""
    machine = Machine()
    monkeypatch.setattr("vta_rt.backends.tensorrt.cuda.cudart", machine.cudart)
    return machine


@pytest.fixture
def lanes(machine: Machine) -> Iterator[Lanes]:
    """Of the stand-in; whatever a test did, they give everything back."""
    lanes = Lanes()
    yield lanes
    machine.fail = None
    lanes.close()
    assert machine.held == (0, 0, 0, 0, 0)


@pytest.fixture
def host() -> Callable[[str], Session]:
    return lambda name: HostSession(name, kernels(1)[name])


def plan(steps: int, guidance: float | np.ndarray = 2.0, noisy: bool = True) -> SamplingPlan:
    """Rows like a solver's, but of no solver in particular; every other one adds noise."""
    rows = np.random.default_rng(steps).normal(size=(steps, 7)) * 0.5
    rows[:, 0] = np.linspace(900, 10, steps)
    rows[:, 6] *= noisy * (np.arange(steps) % 2 == 0)
    return SamplingPlan(rows, np.broadcast_to(guidance, steps))
