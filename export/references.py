"""What the graphs of a bundle give where it is built, kept in the bundle for ``vta check``."""

from __future__ import annotations

import platform
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

from export.bundle_folder import staging_folder
from export.report import BuildReport
from vta_rt.backends.base import Lane, Session
from vta_rt.backends.onnxruntime import OnnxRuntimeSession, ort
from vta_rt.bundle import Bundle
from vta_rt.files import raise_output_errors
from vta_rt.manifest import MANIFEST, REFERENCES, write_manifest
from vta_rt.references import loop_sampling, run_everything, write_references
from vta_rt.stages import Stages
from vta_rt.verification import record_file


def add_references(folder: Path, report: BuildReport | None = None, *, anew: bool = False) -> None:
    """Run every graph of a bundle on ONNX Runtime's CPU provider and keep the results in the bundle.

    Args:
        anew: also where the bundle has references.

    Raises:
        BundleError: the bundle cannot be opened, or a graph of it cannot be run.
        OutputError: the folder cannot be written.
    """
    report = report or BuildReport()
    bundle = Bundle(folder)
    manifest, path = bundle.manifest, bundle.path / REFERENCES
    if manifest.references is not None and not anew:
        return
    with staging_folder(bundle.path), ExitStack() as opened, report.step("references"):

        @cache
        def session(name: str) -> Session:
            record, file = manifest.graphs[name], bundle.graph_path(name)
            if record.precision == "bf16":
                from export.onnx_file import make_runnable, record_form  # needs torch, the other precisions do not

                file = opened.enter_context(make_runnable(file, record.precision))
                record = record_form(record, file)
            return OnnxRuntimeSession(name, record, file)

        sampling = loop_sampling(manifest)
        outputs = run_everything(Stages(session, Lane(), manifest.model, manifest.frames), manifest, sampling)
        with raise_output_errors(path):
            if path.is_symlink():  # to those of another bundle
                path.unlink()
            write_references(path, outputs, sampling, f"ONNX Runtime {ort.__version__}, {platform.machine()}")
            write_manifest(bundle.path / MANIFEST, replace(manifest, references=record_file(path)))
