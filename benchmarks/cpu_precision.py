"""Each graph of a bundle on the CPU, once a call: engines and precisions beside each other, in one run.

    python benchmarks/cpu_precision.py --bundle engines/full-fp32 [--int8 BUNDLE] [--ckpt CKPT --first-stage FILE]

The bundle is one at fp32; OpenVINO's bf16 rows compute the same graphs in bf16, int8 rows those of the other bundle, torch
rows the checkpoint's modules. Errors are against ONNX Runtime at fp32 on the same inputs. Processor seconds are of all
cores together, and are what to compare where other work shares the machine; wall time is what a user waits for on a
machine of his own. The table goes to standard output, figures to benchmarks/results/cpu_precision.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
import numpy as np

GRAPHS = ("denoiser", "denoiser_unguided", "vae_decoder", "vocoder", "visual_encoder")
ROWS = (
    "onnxruntime fp32",
    "openvino fp32",
    "openvino bf16",
    "onnxruntime int8",
    "openvino int8",
    "torch bf16 compiled",
)


def main() -> None:
    options = _parser().parse_args()
    if options.inside:
        print(json.dumps(_inside(options, *options.inside)))
        return
    results: dict[str, dict[str, Any]] = {}
    about = {"bundle": Path(options.bundle).name, "repeats": options.repeats}
    with tempfile.TemporaryDirectory() as folder:
        for graph in options.graph:
            results[graph] = {}
            for row in options.row:
                needs = {"int8": options.int8, "torch": options.ckpt}
                if any(word in row and not value for word, value in needs.items()):
                    continue
                results[graph][row] = _in_process(graph, row, Path(folder))
                found = results[graph][row]
                print(
                    f"{graph:<18} {row:<20} " + "  ".join(f"{key} {value}" for key, value in found.items()), flush=True
                )
                path = machine.write(options.name, {**about, "graphs": results})
    print(table(results))
    print(path)


def table(results: dict[str, dict[str, Any]]) -> str:
    """As Markdown: processor seconds a call, how many times less than fp32 ONNX Runtime, and the relative error."""
    lines = ["| graph | | load s | wall s | processor s | times faster | relative error |", "| --- " * 7 + "|"]
    for graph, rows in results.items():
        for row, found in rows.items():
            if "failed" in found:
                lines.append(f"| {graph} | {row} | {found['failed']} | | | | |")
                continue
            base = rows.get(ROWS[0], {}).get("processor_s")
            ratio = f"{base / found['processor_s']:.2f}" if base else ""
            figures = (found["load_s"], found["wall_s"], found["processor_s"], ratio, f"{found['relative_error']:.1e}")
            lines.append(f"| {graph} | {row} | {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


def _in_process(graph: str, row: str, folder: Path) -> dict[str, Any]:
    """In a process of its own, so that its memory is its own; what fails is one line of the result."""
    command = [sys.executable, *sys.argv, "--inside", graph, row, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def _inside(options: argparse.Namespace, graph: str, row: str, folder: str) -> dict[str, Any]:
    from vta_rt.bundle import Bundle

    bundle = Bundle(options.bundle)
    feeds = inputs_of(bundle.manifest, graph)
    start, processor = time.perf_counter(), time.process_time()
    call = _torch(options, graph) if row.startswith("torch") else _session(options, bundle, graph, row)
    call(feeds)  # what is made on first use counts as loading
    load = time.perf_counter() - start, time.process_time() - processor
    times = []
    for _ in range(options.repeats):
        start, processor = time.perf_counter(), time.process_time()
        outputs = call(feeds)
        times.append((time.perf_counter() - start, time.process_time() - processor))
    reference = Path(folder) / f"{graph}.npz"
    if row == ROWS[0]:
        np.savez(reference, **outputs)
    expected = np.load(reference)
    return {
        "load_s": round(load[0], 2),
        "load_processor_s": round(load[1], 2),
        "wall_s": round(min(wall for wall, _ in times), 3),
        "processor_s": round(min(seconds for _, seconds in times), 3),
        "relative_error": max(
            float(np.linalg.norm(outputs[name] - expected[name]) / np.linalg.norm(expected[name])) for name in outputs
        ),
        "peak_memory_gb": machine.peak_memory_gb(),
    }


def inputs_of(manifest: Any, graph: str) -> dict[str, np.ndarray]:
    """What the graph would see in the middle of a clip: pictures of slow colours, latents of noise, mels as decoders give."""
    model, frames = manifest.model, manifest.frames
    count = model.frame_count(frames)
    rng = np.random.default_rng(0)
    if graph == "visual_encoder":
        coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
        side = -(-frames.size // 8)
        return {"frames": np.ascontiguousarray(coarse.repeat(side, 1).repeat(side, 2)[:, : frames.size, : frames.size])}
    latents = rng.standard_normal(model.latent_shape(), np.float32)
    if graph == "vae_decoder":
        return {"latents": latents}
    if graph == "vocoder":
        return {"mel": (rng.standard_normal((1, 1, model.mel_frames, model.mel_bins), np.float32) * 2 - 4)}
    return {
        **dict.fromkeys(("latents", "previous", "noise"), latents),
        "tokens": rng.standard_normal((1, count, model.token_width), np.float32),
        "token_mask": np.ones((1, count), bool),
        "timestep": np.array([500], np.float32),
        "step": np.array([0.7, -0.7, 0.5, 0.5, 0, 0, 3, 0], np.float32),
    }


def _session(options: argparse.Namespace, bundle: Any, graph: str, row: str) -> Callable[[Any], Any]:
    from vta_rt.bundle import Bundle

    engine, precision = row.split()
    if precision == "int8":
        bundle = Bundle(options.int8)
    record, path = bundle.manifest.graphs[graph], bundle.graph_path(graph)
    if engine == "onnxruntime":
        from vta_rt.backends.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(graph, record, path, options.threads).run
    from vta_rt.backends import openvino

    half = replace(record, precision="fp32" if precision == "fp32" else "bf16")
    return openvino.OpenVinoSession(graph, half, path, options.threads).run


def _torch(options: argparse.Namespace, graph: str) -> Callable[[Any], Any]:
    import torch

    from export.bundling import Options, frame_config, model_config, units
    from export.checkpoint import open_checkpoint

    if options.threads:
        torch.set_num_threads(options.threads)
    checkpoint = open_checkpoint(options.ckpt, options.first_stage)
    chosen = Options()
    model = model_config(checkpoint, chosen.seconds)
    frames = frame_config(checkpoint, model)
    unit = next(unit for unit in units(checkpoint, model, frames, chosen) if graph.startswith(unit.name))
    stage = next(stage for stage in unit.stages() if stage.name == graph)
    module = torch.compile(stage.module.eval().to(torch.bfloat16))

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            values = module(*(torch.from_numpy(feeds[name]) for name in stage.inputs))
        values = values if isinstance(values, tuple) else (values,)
        return {name: value.numpy() for name, value in zip(stage.outputs, values, strict=True)}

    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True, help="at fp32")
    parser.add_argument("--int8", metavar="BUNDLE", help="the same model at int8")
    parser.add_argument("--ckpt", help="the same model's checkpoint, for the rows of torch")
    parser.add_argument("--first-stage")
    parser.add_argument("--graph", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    parser.add_argument("--row", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--name", default="cpu_precision", help="of the file in benchmarks/results")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)  # the process measured
    return parser


if __name__ == "__main__":
    main()
