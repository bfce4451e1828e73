"""A bundle at fp32 to one at int8: static quantization, calibrated along real denoising trajectories.

Convolutions and matrix products with constant weights get 8-bit activations (unsigned, a tensor) and weights (signed, a
channel) as QuantizeLinear and DequantizeLinear around them (QDQ), which every runtime reads. Measurements say what stays
at fp32: layers whose activations have too little signal over the error of rounding them, and graphs whose outputs change
too much.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from export.bundle_folder import staging_folder, write_bundle
from export.onnx_file import WeightsFile, quiet_logging, record_form, relative_errors, save_graph
from export.report import BuildReport
from vta_rt.backends.onnxruntime import OnnxRuntimeSession, ort
from vta_rt.bundle import Bundle
from vta_rt.errors import OptionError
from vta_rt.files import raise_output_errors
from vta_rt.manifest import GraphRecord
from vta_rt.pipeline import Pipeline
from vta_rt.sampling import Sampling
from vta_rt.schedule import Column
from vta_rt.stages import pad_axis
from vta_rt.verification import record_file
from vta_rt.video import frames_of

QUANTIZABLE = ("Conv", "MatMul", "Gemm")
MIN_SIGNALS = (30.0, 36.0, 42.0)  # dB of a layer's input over its rounding to 8 bits; the next where the first fails
# Relative error of a graph's outputs along the trajectory; an encoder that moved by 0.08 lost all timing.
MAX_INT8_ERROR = 0.02
CALIBRATION_STEPS = 8  # of the trajectory; every noise level from pure noise down is in it
Feeds = list[dict[str, np.ndarray]]


@dataclass
class TensorStatistics:
    """The range and the mean square of all values of one tensor."""

    low: float = math.inf
    high: float = -math.inf
    squares: float = 0.0  # their sum
    count: int = 0

    def add(self, values: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.squares += float(np.square(values, dtype=np.float64).sum())
        self.count += values.size

    @property
    def signal(self) -> float:
        """dB of the values over the error of rounding them to 255 steps of their range."""
        step = (max(self.high, 0.0) - min(self.low, 0.0)) / 255
        if step == 0 or self.squares == 0:
            return math.inf
        return 10 * math.log10(self.squares / self.count / (step**2 / 12))


def quantize(bundle: Path, out: Path, videos: Sequence[Path], report: BuildReport | None = None) -> Path:
    """Write the int8 form of a bundle at fp32.

    Args:
        out: the new bundle's folder.
        videos: to calibrate on; a few are enough, but they should be like those it will be used for.

    Raises:
        OptionError: no videos, or a bundle that is not at fp32.
        VideoError: a video cannot be read.
    """
    report = report or BuildReport()
    source = Bundle(bundle)
    if source.manifest.precision != "fp32":
        raise OptionError(f"{bundle}: is at {source.manifest.precision}; int8 is made from a bundle at fp32")
    if not videos:
        raise OptionError("int8 has to be calibrated on frames: name a few videos with --calibrate")
    if out.resolve() == source.path.resolve():
        raise OptionError(f"{out}: is the bundle at fp32 itself; name another folder with --out")
    with staging_folder(out) as staging, raise_output_errors(out):
        with report.step("calibration: running the clips at fp32"):
            feeds = record_trajectories(source, videos)
        records: dict[str, GraphRecord] = {}
        with ExitStack() as opened:
            shared: dict[str, WeightsFile] = {}
            for name, record in source.manifest.graphs.items():
                file = record.weights[0].file if record.weights else f"{name}.onnx.data"
                if file not in shared:
                    shared[file] = opened.enter_context(WeightsFile(staging / file))
                records[name] = _quantize_graph(source, name, feeds[name], staging, shared[file], report)
        for name, record in records.items():
            weights = tuple(record_file(staging / file.file) for file in source.manifest.graphs[name].weights)
            records[name] = replace(record, graph=record_file(staging / f"{name}.onnx"), weights=weights)
            report.add_built(name, records[name])
        if source.manifest.tokenizer is not None:
            shutil.copyfile(source.path / source.manifest.tokenizer.file, staging / source.manifest.tokenizer.file)
        write_bundle(out, staging, replace(source.manifest, graphs=records, engines=(), references=None))
    return out


def record_trajectories(bundle: Bundle, videos: Sequence[Path]) -> dict[str, Feeds]:
    """The inputs of each graph while sound is generated for the videos: real frames, every noise level, its own latents."""
    pipeline = Pipeline(bundle.path, backend="cpu")
    model, frames = pipeline.model, pipeline.frames
    sampling = Sampling(CALIBRATION_STEPS, "dpmpp_2m", bundle.manifest.sampling.guidance, "trailing")
    table = sampling.plan(pipeline.schedule).table
    feeds: dict[str, Feeds] = {name: [] for name in bundle.manifest.graphs}
    for seed, video in enumerate(videos):
        images = frames_of(video, frames, model.seconds)
        missing = frames.padded_count(len(images)) - len(images)
        feeds["visual_encoder"].append({"frames": np.pad(images, ((0, missing), *[(0, 0)] * 3), mode="edge")})
        tokens = pipeline.encode(images)[None]  # [1, N, D]
        session = pipeline.session("denoiser")
        mask = np.ones(tokens.shape[:2], bool)
        length = session.fixed_size("tokens", 1)
        state: dict[str, np.ndarray] = {
            "latents": np.random.default_rng(seed).standard_normal(model.latent_shape(), np.float32)
        }
        state["previous"] = np.zeros_like(state["latents"])
        for row in table:
            inputs = {
                **state,
                "noise": np.zeros_like(state["latents"]),
                "tokens": pad_axis(tokens, 1, length),
                "token_mask": pad_axis(mask, 1, length),
                "timestep": row[:1].astype(np.float32),
                "step": np.array([*row[Column.P :], sampling.guidance, 0], np.float32),
            }
            feeds["denoiser_unguided"].append(inputs)
            if "negative_tokens" in session.inputs:
                nothing = {"negative_tokens": 0 * inputs["tokens"], "negative_mask": np.ones_like(inputs["token_mask"])}
                inputs = {**inputs, **nothing}
            feeds["denoiser"].append(inputs)
            result = session.run(inputs)
            state = {"latents": result["latents_next"], "previous": result["denoised"]}
        feeds["vae_decoder"].append({"latents": state["latents"]})
        feeds["vocoder"].append({"mel": pipeline.decode(state["latents"])})
    return feeds


def _quantize_graph(
    source: Bundle, name: str, feeds: Feeds, staging: Path, weights: WeightsFile, report: BuildReport
) -> GraphRecord:
    """One graph in the staging folder, at int8 if its error allows; its record still lists the files of the source.

    The text encoder, which videos do not reach, stays as it is: it runs once a prompt.
    """
    record, path = source.manifest.graphs[name], source.graph_path(name)
    if not feeds:
        save_graph(ir.load(path), staging / f"{name}.onnx", name, weights)
        return record
    with report.step(f"{name}: reference outputs at fp32"):
        session = OnnxRuntimeSession(name, record, path)
        references = [session.run(each) for each in feeds]
        del session
    with tempfile.TemporaryDirectory(dir=staging) as folder:
        made = Path(folder) / f"{name}.onnx"
        with report.step(f"{name}: signal over rounding of each layer"):
            signals = measure_signals(path, feeds)
        kept = True
        for least in MIN_SIGNALS:
            sensitive = [layer for layer, signal in signals.items() if signal < least]
            if len(sensitive) == len(signals):
                break
            with report.step(f"{name}: quantize"):
                _quantize_layers(path, made, feeds, sensitive)
            with report.step(f"{name}: check"):
                errors = _find_worst_errors(
                    OnnxRuntimeSession(name, record_form(record, made), made), feeds, references
                )
            kept = not all(error <= MAX_INT8_ERROR for error in errors.values())
            count, worst = len(signals) - len(sensitive), max(errors.values())
            report.note(f"{name}: {count} of {len(signals)} layers at int8, relative error {worst:.2g}")
            if not kept:
                break
        if kept:
            report.note(f"{name} stays at fp32")
        save_graph(ir.load(path if kept else made), staging / f"{name}.onnx", name, weights)
    if kept:
        return record
    return replace(record, precision="int8", error=errors, key="")


def _find_worst_errors(
    session: OnnxRuntimeSession, feeds: Feeds, references: list[dict[str, np.ndarray]]
) -> dict[str, float]:
    """The largest relative error of each output over all feeds."""
    found = [relative_errors(session.run(each), expected) for each, expected in zip(feeds, references, strict=True)]
    return {output: max(errors[output] for errors in found) for output in found[0]}


def measure_signals(path: Path, feeds: Feeds) -> dict[str, float]:
    """For each layer that can be quantized: dB of its input over the error of rounding it, over all feeds."""
    model = ir.load(path)
    inputs = {
        node.name or "": node.inputs[0]
        for node in model.graph
        if node.op_type in QUANTIZABLE and node.inputs[0] is not None and _is_constant(node.inputs[1])
    }
    wanted = {value.name: value for value in inputs.values() if value is not None and value.producer() is not None}
    model.graph.outputs.extend(value for value in wanted.values() if value not in model.graph.outputs)
    with tempfile.TemporaryDirectory() as folder:
        watched = Path(folder) / "watched.onnx"
        ir.save(model, watched, external_data="watched.data")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session = ort.InferenceSession(watched, options, providers=["CPUExecutionProvider"])
        names = [name for name in wanted if name]
        statistics = {name: TensorStatistics() for name in names}
        for each in feeds:
            for name, values in zip(names, session.run(names, each), strict=True):
                statistics[name].add(values)
    return {
        layer: statistics[value.name].signal
        for layer, value in inputs.items()
        if value is not None and value.name in statistics
    }


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _quantize_layers(path: Path, out: Path, feeds: Feeds, excluded: list[str]) -> None:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    with quiet_logging():
        quantization.quantize_static(
            path,
            out,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZABLE),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=excluded,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )
