"""The command ``python -m export.build``: a checkpoint in, a bundle out. Knows arguments only; ``bundling`` does the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vta_rt.cli import run_command
from vta_rt.errors import VTAError


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a bundle as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_build, arguments)


def _build(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:  # here, so that --help need not wait for torch
        from export.bundling import Options, build
        from export.report import Report
    except ModuleNotFoundError as error:
        raise VTAError(f'{error.name} is not installed; exporting needs: pip install "vta-rt[export]"') from error

    with Report() as report:
        out = build(
            options.ckpt,
            options.first_stage,
            options.out,
            Options(options.precision, options.seconds, options.dynamic_batch),
            report,
        )
    report.table(out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.build",
        description="Turn a VTA-LDM checkpoint into a bundle of ONNX graphs that vta_rt runs without torch.",
        epilog="A build that was stopped goes on where it was; graphs already built from the same weights are kept.",
    )
    parser.add_argument(
        "--ckpt",
        required=True,
        metavar="DIR",
        help="the checkpoint: a folder with pytorch_model_2.bin or model_2.safetensors and summary.jsonl, or a hub id",
    )
    parser.add_argument(
        "--first-stage",
        metavar="PATH",
        help="VAE and vocoder: audioldm-s-full.ckpt, a diffusers AudioLDM folder, or a model-hub id such as "
        "cvssp/audioldm-s-full; looked for beside the checkpoint if not given",
    )
    parser.add_argument("--out", metavar="DIR", help="the bundle's folder (default: engines/NAME of the checkpoint)")
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16"],
        default="fp32",
        help="of weights and arithmetic; fp16 is half the size, and no faster on a CPU (default: fp32)",
    )
    parser.add_argument("--seconds", type=float, default=10.24, help="of sound made in one pass (default: 10.24)")
    parser.add_argument(
        "--dynamic-batch",
        action="store_true",
        help="leave the batch axis open, for several clips in one call (by default they run one after the other)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
