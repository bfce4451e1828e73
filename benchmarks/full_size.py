"""Export a checkpoint and make sound for one clip, stage by stage: time, peak memory, sizes, errors.

    python benchmarks/full_size.py --ckpt ckpt/vta-ldm-clip4clip-v-large --video clip.mp4 --steps 4

Each precision is exported and run in a process of its own, so that its peak memory is its own. The table goes to standard
output, the figures to benchmarks/results/full_size.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

GRAPHS = {"encode": "visual_encoder", "denoise": "denoiser", "decode": "vae_decoder", "vocode": "vocoder"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--first-stage")
    parser.add_argument("--video", required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.24)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16"])
    parser.add_argument("--name", default="full_size", help="of the file in benchmarks/results")
    parser.add_argument("--inside", choices=["export", "run"], help=argparse.SUPPRESS)  # the process measured
    parser.add_argument("--bundle", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(_export(options) if options.inside == "export" else _run(options)))
        return

    results = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for precision in options.precision:
            bundle = str(Path(folder) / precision)
            results[precision] = {
                "export": _in_process("export", bundle, precision),
                "run": _in_process("run", bundle, precision),
            }
            _print(precision, results[precision])
    print(machine.write(options.name, {"steps": options.steps, "guidance": options.guidance, "precisions": results}))


def _in_process(what: str, bundle: str, precision: str) -> dict[str, Any]:
    command = [sys.executable, *sys.argv, "--inside", what, "--bundle", bundle, "--precision", precision]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from export.bundling import Options, build
    from vta_rt.bundle import Bundle

    start = time.perf_counter()
    out = build(options.ckpt, options.first_stage, options.bundle, Options(options.precision[0], options.seconds))
    seconds = time.perf_counter() - start
    graphs = Bundle(out).manifest.graphs
    return {
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "bundle_mb": round(sum(path.stat().st_size for path in out.iterdir()) / 1e6, 1),
        "relative_error": {name: max(record.error.values()) for name, record in graphs.items()},
    }


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Each stage on its own: loading its graph, then running it; memory counts what earlier stages left loaded."""
    from vta_rt import Pipeline
    from vta_rt.audio import Audio
    from vta_rt.video import sample_frames

    stages: dict[str, dict[str, float]] = {}

    def measure(stage: str, work: Any) -> Any:
        machine.reset_peak_memory()
        row: dict[str, float] = {}
        if graph := GRAPHS.get(stage):
            start = time.perf_counter()
            pipeline.session(graph)
            row["load_s"] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()
        value = work()
        row["run_s"] = round(time.perf_counter() - start, 2)
        row["peak_memory_gb"] = machine.peak_memory_gb()
        stages[stage] = row
        return value

    pipeline = measure("open", lambda: Pipeline(options.bundle))
    model = pipeline.model
    frames = measure("frames", lambda: sample_frames(options.video, seconds=model.seconds))
    tokens = measure("encode", lambda: pipeline.encode(frames))
    latents = measure(
        "denoise", lambda: pipeline.denoise(tokens, steps=options.steps, guidance=options.guidance, seed=0)
    )
    mel = measure("decode", lambda: pipeline.decode(latents))
    wave = measure("vocode", lambda: pipeline.vocode(mel))
    with tempfile.TemporaryDirectory() as folder:
        measure("save", lambda: Audio(wave[0], model.sample_rate).save(Path(folder) / "clip.wav"))
    return stages


def _print(precision: str, result: dict[str, Any]) -> None:
    export = result["export"]
    print(
        f"{precision}: exported in {export['seconds']} s, peak {export['peak_memory_gb']} GB, "
        f"bundle {export['bundle_mb']:,} MB"
    )
    print(f"  {'stage':<10}{'load s':>8}{'run s':>8}{'peak GB':>9}")
    for stage, row in result["run"].items():
        print(f"  {stage:<10}{row.get('load_s', ''):>8}{row['run_s']:>8}{row['peak_memory_gb']:>9}")
    for graph, error in export["relative_error"].items():
        print(f"  {graph:<20} relative error {error:.1e}")


if __name__ == "__main__":
    main()
