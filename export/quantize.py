"""A bundle at fp32 to one at int8: static quantization, calibrated along real denoising trajectories.

Convolutions and matrix products with constant weights get 8-bit activations (unsigned, a tensor) and weights (signed, a
channel) as QuantizeLinear and DequantizeLinear around them (QDQ), which every runtime reads. What does not bear it is left
alone, by measurement: layers whose activations would keep too little signal over their rounding, and whole graphs whose
outputs move too far. Knows ONNX Runtime's quantizer; needs no torch and no checkpoint.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from export.onnx_file import INLINE_BYTES, WeightsFile, relative_errors
from export.report import BuildReport
from export.staging import staging_folder
from vta_rt.backends.onnxruntime import OnnxRuntimeSession, ort
from vta_rt.bundle import Bundle
from vta_rt.errors import OptionError
from vta_rt.files import raise_output_errors
from vta_rt.manifest import MANIFEST, GraphRecord, record_file, write_manifest
from vta_rt.pipeline import Pipeline
from vta_rt.sampling import Sampling
from vta_rt.schedule import Column
from vta_rt.stages import pad_axis
from vta_rt.text import TOKENIZER
from vta_rt.video import frames_of

QUANTIZED = ("Conv", "MatMul", "Gemm")
LEAST_SIGNAL = (30.0, 36.0, 42.0)  # dB of a layer's input over its rounding to 8 bits; the next where the first fails
TOLERANCE = (
    0.02  # relative error of a graph's outputs along the trajectory; an encoder that moved by 0.08 lost all timing
)
STEPS = 8  # of the trajectory that calibrates; every noise level from pure noise down is in it
Feeds = list[dict[str, np.ndarray]]


@dataclass
class Spread:
    """What was seen of one tensor: its range and its mean square."""

    low: float = math.inf
    high: float = -math.inf
    squares: float = 0.0
    count: int = 0

    def see(self, values: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.squares += float(np.square(values, dtype=np.float64).sum())
        self.count += values.size

    @property
    def signal(self) -> float:
        """dB of the values over what rounding them to 255 steps of their range does."""
        step = (max(self.high, 0.0) - min(self.low, 0.0)) / 255
        if step == 0 or self.squares == 0:
            return math.inf
        return 10 * math.log10(self.squares / self.count / (step**2 / 12))


def quantize(bundle: Path, out: Path, videos: Sequence[Path], report: BuildReport | None = None) -> Path:
    """Write the int8 form of a bundle at fp32.

    Args:
        out: the new bundle's folder. videos: to calibrate on; few, but such as it shall hear.

    Raises:
        OptionError: no videos, or a bundle that is not at fp32. VideoError: a video cannot be read.
    """
    report = report or BuildReport()
    source = Bundle(bundle)
    if source.manifest.precision != "fp32":
        raise OptionError(f"{bundle}: is at {source.manifest.precision}; int8 is made from a bundle at fp32")
    if not videos:
        raise OptionError("int8 has to be calibrated on pictures: name a few videos with --calibrate")
    if out.resolve() == source.path.resolve():
        raise OptionError(f"{out}: is the bundle at fp32 itself; name another folder with --out")
    with staging_folder(out) as staging, raise_output_errors(out):
        with report.step("calibration: running the clips at fp32"):
            feeds = trajectories(source, videos)
        records: dict[str, GraphRecord] = {}
        shared: dict[str, WeightsFile] = {}
        for name, record in source.manifest.graphs.items():
            file = record.weights[0].file if record.weights else f"{name}.onnx.data"
            if file not in shared:
                shared[file] = WeightsFile(staging / file).__enter__()
            records[name] = _quantized(source, name, feeds[name], staging, shared[file], report)
        for written in shared.values():
            written.__exit__()
        for name, record in records.items():
            weights = tuple(record_file(staging / file.file) for file in source.manifest.graphs[name].weights)
            records[name] = replace(record, graph=record_file(staging / f"{name}.onnx"), weights=weights)
            report.built(name, records[name])
        if source.manifest.tokenizer is not None:
            shutil.copyfile(source.path / source.manifest.tokenizer.file, staging / source.manifest.tokenizer.file)
        for path in (*staging.glob("*.onnx"), *staging.glob("*.onnx.data"), *staging.glob(TOKENIZER)):
            path.replace(out / path.name)
        write_manifest(out / MANIFEST, replace(source.manifest, graphs=records, engines=()))
    Bundle(out)  # what was written opens
    return out


def trajectories(bundle: Bundle, videos: Sequence[Path]) -> dict[str, Feeds]:
    """What each graph is given while sound is made for the videos: real pictures, every noise level, its own latents."""
    pipeline = Pipeline(bundle.path, backend="cpu")
    model, frames = pipeline.model, pipeline.frames
    how = Sampling(STEPS, "dpmpp_2m", bundle.manifest.sampling.guidance, "trailing")
    table = how.plan(pipeline.schedule).table
    feeds: dict[str, Feeds] = {name: [] for name in bundle.manifest.graphs}
    for seed, video in enumerate(videos):
        pictures = frames_of(video, frames, model.seconds)
        missing = frames.padded_count(len(pictures)) - len(pictures)
        feeds["visual_encoder"].append({"frames": np.pad(pictures, ((0, missing), *[(0, 0)] * 3), mode="edge")})
        tokens = pipeline.encode(pictures)[None]  # [1, N, D]
        session = pipeline.session("denoiser")
        mask = np.ones(tokens.shape[:2], bool)
        length = session.fixed_size("tokens", 1)
        state: dict[str, np.ndarray] = {
            "latents": np.random.default_rng(seed).standard_normal(model.latent_shape(), np.float32)
        }
        state["previous"] = np.zeros_like(state["latents"])
        for row in table:
            given = {
                **state,
                "noise": np.zeros_like(state["latents"]),
                "tokens": pad_axis(tokens, 1, length),
                "token_mask": pad_axis(mask, 1, length),
                "timestep": row[:1].astype(np.float32),
                "step": np.array([*row[Column.P :], how.guidance, 0], np.float32),
            }
            feeds["denoiser_unguided"].append(given)
            if "negative_tokens" in session.inputs:
                nothing = {"negative_tokens": 0 * given["tokens"], "negative_mask": np.ones_like(given["token_mask"])}
                given = {**given, **nothing}
            feeds["denoiser"].append(given)
            result = session.run(given)
            state = {"latents": result["latents_next"], "previous": result["denoised"]}
        feeds["vae_decoder"].append({"latents": state["latents"]})
        feeds["vocoder"].append({"mel": pipeline.decode(state["latents"])})
    return feeds


def _quantized(
    source: Bundle, name: str, feeds: Feeds, staging: Path, weights: WeightsFile, report: BuildReport
) -> GraphRecord:
    """One graph in the staging folder, at int8 if it bears it; its record still lists the files of the source.

    What videos do not reach, the text encoder, stays as it is: it runs once a prompt.
    """
    record, path = source.manifest.graphs[name], source.graph_path(name)
    if not feeds:
        _write(path, staging / f"{name}.onnx", name, weights)
        return record
    with report.step(f"{name}: reference outputs at fp32"):
        session = OnnxRuntimeSession(name, record, path)
        references = [session.run(each) for each in feeds]
        del session
    with tempfile.TemporaryDirectory(dir=staging) as folder:
        made = Path(folder) / f"{name}.onnx"
        with report.step(f"{name}: what each layer bears"):
            borne = signals(path, feeds)
        kept = True
        for least in LEAST_SIGNAL:
            sensitive = [layer for layer, signal in borne.items() if signal < least]
            if len(sensitive) == len(borne):
                break
            with report.step(f"{name}: quantize"):
                _quantize(path, made, feeds, sensitive)
            with report.step(f"{name}: check"):
                errors = _worst(OnnxRuntimeSession(name, record, made), feeds, references)
            kept = not all(error <= TOLERANCE for error in errors.values())
            found = f"relative error {max(errors.values()):.2g}"
            report.note(f"{name}: {len(borne) - len(sensitive)} of {len(borne)} layers at int8, {found}")
            if not kept:
                break
        if kept:
            report.note(f"{name} stays at fp32")
        _write(path if kept else made, staging / f"{name}.onnx", name, weights)
    if kept:
        return record
    return replace(record, precision="int8", error=errors, key="")


def _worst(session: OnnxRuntimeSession, feeds: Feeds, references: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The largest relative error of each output among all that was fed."""
    found = [relative_errors(session.run(each), expected) for each, expected in zip(feeds, references, strict=True)]
    return {output: max(errors[output] for errors in found) for output in found[0]}


def signals(path: Path, feeds: Feeds) -> dict[str, float]:
    """For each layer that could be quantized: dB of its input over the rounding of it, from what was fed."""
    model = ir.load(path)
    inputs = {
        node.name or "": node.inputs[0]
        for node in model.graph
        if node.op_type in QUANTIZED and node.inputs[0] is not None and _is_constant(node.inputs[1])
    }
    asked = {value.name: value for value in inputs.values() if value is not None and value.producer() is not None}
    model.graph.outputs.extend(value for value in asked.values() if value not in model.graph.outputs)
    with tempfile.TemporaryDirectory() as folder:
        watched = Path(folder) / "watched.onnx"
        ir.save(model, watched, external_data="watched.data")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session = ort.InferenceSession(watched, options, providers=["CPUExecutionProvider"])
        names = [name for name in asked if name]
        spreads = {name: Spread() for name in names}
        for each in feeds:
            for name, values in zip(names, session.run(names, each), strict=True):
                spreads[name].see(values)
    return {
        layer: spreads[value.name].signal
        for layer, value in inputs.items()
        if value is not None and value.name in spreads
    }


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _quantize(path: Path, out: Path, feeds: Feeds, excluded: list[str]) -> None:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    with _quiet():
        quantization.quantize_static(
            path,
            out,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=excluded,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )


def _write(path: Path, out: Path, name: str, weights: WeightsFile) -> None:
    """The graph with its large tensors in the weights file that it may share."""
    model = ir.load(path)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.nbytes >= INLINE_BYTES:
            value.const_value = weights.add(value.const_value)
    weights.flush()
    model.producer_name = "vta_rt"
    model.graph.name = name
    ir.save(model, out)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer advises on the terminal to prepare graphs in ways that change nothing here."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
