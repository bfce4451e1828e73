"""The command ``python -m export.build``: from a checkpoint to a bundle, and to engines on request."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vta_rt.backends.tensorrt.index import BuilderOptions
from vta_rt.bundle import Bundle
from vta_rt.cli.command import run_command
from vta_rt.errors import OptionError
from vta_rt.files import raise_output_errors
from vta_rt.manifest import Precision

if TYPE_CHECKING:
    from export.report import BuildReport

PUBLISHED_SECONDS = 10.24


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a bundle as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_build, arguments, extra="export")


def _build(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    _check_options(options)
    # Imported here, so that --help need not wait for torch.
    from export.engines import EngineBuild, parse_profile
    from export.references import add_references
    from export.report import BuildReport

    profiles = [parse_profile(text) for text in options.profile or ["1"]]
    seconds = options.seconds
    if seconds is None:
        seconds = next((profile.seconds for profile in profiles if profile.seconds is not None), PUBLISHED_SECONDS)
    if options.bundle is None:
        profiles = [replace(each, seconds=None) if each.seconds == seconds else each for each in profiles]
    engines = None
    if options.engine != "onnx":  # before any work: it may not be possible here
        builder = BuilderOptions(
            options.optimization_level, options.workspace_mb, options.max_aux_streams, options.tf32
        )
        engines = EngineBuild(options.engine, profiles, builder, options.compute_capability or ())
    with BuildReport() as report:
        if options.precision == "int8":
            out = _build_int8(options, seconds, report)
        elif options.bundle is None:
            batch, length = any(each.batch > 1 for each in profiles), any(each.seconds is not None for each in profiles)
            out = _export(options, options.out, seconds, report, dynamic_batch=batch, dynamic_length=length)
        else:
            bundle = Bundle(options.bundle)
            precisions = {record.precision for record in bundle.manifest.graphs.values()}
            if engines is not None and "int8" in precisions:
                raise OptionError(
                    f"{options.bundle}: is at int8, which is for CPUs; engines are built from fp32 or fp16"
                )
            out = bundle.path
        if options.bundle is None or options.precision == "int8" or options.references:
            add_references(out, report, anew=options.references)
        folder = engines.run(out, report) if engines is not None else None
    report.print_table(out, folder)
    return 0


def _export(
    options: argparse.Namespace,
    out: Path | str | None,
    seconds: float,
    report: BuildReport,
    *,
    dynamic_batch: bool = False,
    dynamic_length: bool = False,
) -> Path:
    """A bundle of the checkpoint; at fp32 also where int8 is wanted, which is made from it."""
    from export.bundling import Options, build

    precision: Precision = "fp32" if options.precision in (None, "int8") else options.precision
    chosen = Options(precision, seconds, options.dynamic_batch or dynamic_batch, dynamic_length)
    return build(options.ckpt, options.first_stage, out, chosen, report, options.tokenizer)


def _build_int8(options: argparse.Namespace, seconds: float, report: BuildReport) -> Path:
    """An int8 bundle from one at fp32: the one named, or a temporary one beside the new one."""
    from export.quantize import quantize

    videos = [Path(video) for video in options.calibrate or []]
    if missing := [video for video in videos if not video.is_file()]:
        raise OptionError(f"{missing[0]}: no such file to calibrate on")
    if options.bundle is not None:
        source = Bundle(options.bundle).path
        return quantize(source, Path(options.out or f"{source}-int8"), videos, report)
    from export.checkpoint import read_checkpoint

    if not videos:
        raise OptionError("int8 has to be calibrated on frames: name a few videos with --calibrate")
    out = Path(options.out or Path("engines") / read_checkpoint(options.ckpt, options.first_stage).name)
    with raise_output_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=out.parent, prefix=".fp32-")
    with temporary as folder:
        return quantize(_export(options, Path(folder) / out.name, seconds, report), out, videos, report)


def _check_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if options.precision == "int8":
        if options.engine != "onnx":
            raise OptionError("int8 graphs are for CPUs; leave out --engine, or choose fp16 or bf16")
    elif options.calibrate:
        raise OptionError("--calibrate goes with --precision int8")
    if options.engine == "onnx":
        if options.bundle is not None and options.precision != "int8" and not options.references:
            raise OptionError(
                f"{options.bundle}: is a bundle already; name the engines to build for it with --engine, or use --references"
            )
        if options.profile or options.compute_capability:
            raise OptionError("--profile and --compute-capability are for engines; name them with --engine")
        if options.precision == "bf16":
            raise OptionError("bf16 graphs run as engines only; name them with --engine, or choose fp32 or fp16")
    if options.bundle is not None:
        own = (
            ("first_stage", "tokenizer", "seconds")
            if options.precision == "int8"
            else ("first_stage", "tokenizer", "out", "precision", "seconds")
        )
        for name in own:
            if getattr(options, name) is not None:
                raise OptionError(f"--{name.replace('_', '-')} goes with --ckpt; a bundle has its own")


class _DeprecatedBucket(argparse.Action):
    """The former name of ``--profile``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        warnings.warn("--bucket is now called --profile", DeprecationWarning, stacklevel=2)
        setattr(namespace, self.dest, values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.build",
        description="Turn a VTA-LDM checkpoint into a bundle of ONNX graphs that vta_rt runs without torch, and the graphs "
        "into TensorRT engines.",
        epilog="A build that was stopped goes on where it was; graphs and engines already built from the same weights are "
        "kept.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--ckpt",
        metavar="DIR",
        help="the checkpoint: a folder with pytorch_model_2.bin or model_2.safetensors and summary.jsonl, or hf:owner/name",
    )
    source.add_argument(
        "--bundle",
        metavar="DIR",
        help="a bundle that is there, to build engines for or to add references to; needs no checkpoint and no torch",
    )
    parser.add_argument(
        "--first-stage",
        metavar="PATH",
        help="VAE and vocoder: audioldm-s-full.ckpt, a diffusers AudioLDM folder, or one on the model hub, such as "
        "hf:cvssp/audioldm-s-full; looked for beside the checkpoint if not given",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="for a model trained with prompts: CLIP's tokenizer.json, or its folder; looked for beside the checkpoint if "
        "not given",
    )
    parser.add_argument("--out", metavar="DIR", help="the bundle's folder (default: engines/NAME of the checkpoint)")
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "bf16", "int8"],
        help="of weights and arithmetic, in graphs and engines alike; fp16 is half the size, and no faster on a CPU; bf16 "
        "runs as engines only; int8 is for CPUs, calibrated on the videos named, from --ckpt or a --bundle at fp32 "
        "(default: fp32)",
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        metavar="VIDEO",
        help="videos to calibrate int8 on: a few like those that it will be used for",
    )
    parser.add_argument("--seconds", type=float, help=f"of sound made in one pass (default: {PUBLISHED_SECONDS})")
    parser.add_argument(
        "--dynamic-batch",
        action="store_true",
        help="leave the batch axis open, for several clips in one call (by default they run one after the other)",
    )

    parser.add_argument(
        "--references",
        action="store_true",
        help="keep anew what the graphs give here, for vta check to compare with; new bundles have it",
    )

    engines = parser.add_argument_group(
        "engines", "Built from the graphs, for one TensorRT and the GPUs it runs on, into tensorrt/ in the bundle."
    )
    engines.add_argument(
        "--engine",
        choices=["onnx", "tensorrt", "tensorrt-rtx"],
        default="onnx",
        help="tensorrt builds on the GPU that will run them; tensorrt-rtx builds on any machine, for RTX GPUs and the A100 "
        "(default: onnx, no engines)",
    )
    engines.add_argument(
        "--profile",
        nargs="+",
        metavar="BATCH[xSECONDS]",
        help="sizes to build for: clips in one call, and seconds of sound; several make several engines of each graph "
        "(default: 1, and the bundle's seconds)",
    )
    engines.add_argument("--bucket", nargs="+", dest="profile", action=_DeprecatedBucket, help=argparse.SUPPRESS)
    engines.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="X.Y",
        help="of the GPUs to build for with tensorrt-rtx, such as 8.9, or current for the one here (default: all from 8.0 on)",
    )
    engines.add_argument(
        "--optimization-level",
        type=int,
        default=BuilderOptions.optimization_level,
        metavar="N",
        help="0 to 5: how long the builder may look for faster kernels (default: 3)",
    )
    engines.add_argument(
        "--workspace-mb", type=int, metavar="MB", help="of GPU memory a kernel may use for scratch (default: all)"
    )
    engines.add_argument(
        "--max-aux-streams",
        type=int,
        metavar="N",
        help="streams an engine may use beside its own (default: TensorRT's choice)",
    )
    engines.add_argument(
        "--tf32", action="store_true", help="let fp32 arithmetic round its inputs to 10 bits, as GPUs do faster"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
