"""Build the engines of every graph of a checkpoint with one command: time, peak memory, sizes. Needs no GPU for tensorrt-rtx.

    python benchmarks/engines.py --ckpt ckpt/vta-ldm-clip4clip-v-large --engine tensorrt-rtx --precision fp16

The graphs are exported first (or kept), in a process of their own, so that the engines' memory is their own. The table
goes to standard output, the figures to benchmarks/results/engines.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--first-stage")
    parser.add_argument("--engine", default="tensorrt-rtx", choices=["tensorrt", "tensorrt-rtx"])
    parser.add_argument("--precision", default="fp16", choices=["fp32", "fp16", "bf16"])
    parser.add_argument("--profile", nargs="+", default=["1"])
    parser.add_argument("--out", help="the bundle's folder, kept afterwards (default: a temporary one)")
    parser.add_argument("--name", default="engines", help="of the file in benchmarks/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as temporary:
        result = _build(options, Path(options.out or Path(temporary) / "bundle"))
    _print(result)
    print(machine.write(options.name, result))


def _build(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    from vta_rt.backends.tensorrt.index import EngineIndex, read_indices
    from vta_rt.bundle import Bundle

    checkpoint = ["--ckpt", options.ckpt, "--precision", options.precision, "--out", str(out)]
    if options.first_stage:
        checkpoint += ["--first-stage", options.first_stage]
    if any(profile != "1" for profile in options.profile):
        checkpoint += ["--dynamic-batch"]
    engines = ["--engine", options.engine, "--profile", *options.profile]
    graphs = _run([*checkpoint])
    first = _run(["--bundle", str(out), *engines])
    again = _run([*checkpoint, *engines])  # the one command, with nothing left to do
    bundle = Bundle(out)
    ((folder, index),) = read_indices(bundle)
    assert isinstance(index, EngineIndex), index
    return {
        "engine": f"{options.engine} {index.target.version}",
        "precision": options.precision,
        "compute_capabilities": index.target.compute_capabilities,
        "graphs": graphs | {"mb": _megabytes(out.glob("*.onnx*"))},
        "engines": first | {"mb": _megabytes(folder.glob("*.engine"))},
        "nothing_to_do": again,
        "each": {
            record.file.file: {"seconds": record.build_seconds, "mb": round(record.file.size / 1e6, 1)}
            for record in index.engines
        },
    }


def _run(arguments: list[str]) -> dict[str, float]:
    """Time and peak memory of ``python -m export.build`` in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "export.build", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"python -m export.build {' '.join(arguments)} failed")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gb": round(usage.ru_maxrss / 1e6, 2),
    }


def _megabytes(files: Any) -> float:
    return round(sum(path.stat().st_size for path in files) / 1e6, 1)


def _print(result: dict[str, Any]) -> None:
    print(f"{result['engine']}, {result['precision']}, for {', '.join(result['compute_capabilities'])}")
    for name in ("graphs", "engines", "nothing_to_do"):
        row = result[name]
        print(
            f"  {name:<14}{row['seconds']:>8} s{row['cpu_seconds']:>8} s of CPU{row['peak_memory_gb']:>7} GB"
            f"{row.get('mb', ''):>9}{' MB' if 'mb' in row else ''}"
        )
    for name, row in result["each"].items():
        print(f"    {name:<36}{row['seconds']:>7} s{row['mb']:>9} MB")


if __name__ == "__main__":
    main()
