"""A checkpoint to a bundle, in one line:

read -> configure -> build modules -> load weights -> build stages -> export graphs -> write bundle
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import onnx_ir as ir
import onnxscript
import torch
import transformers

import vta_rt
from export.bundle_folder import (
    find_finished,
    find_kept,
    note_finished,
    read_old_manifest,
    staging_folder,
    write_bundle,
)
from export.checkpoint import CheckpointFiles, find_tokenizer, read_checkpoint
from export.configure import configure, configure_runtime
from export.modules import Modules, build_modules, load_weights
from export.onnx_file import (
    OPSET,
    WeightsFile,
    count_operations,
    export_stage,
    make_runnable,
    record_form,
    relative_errors,
    run_torch,
)
from export.report import BuildReport
from export.stages import REVISION, Stage, StageGroup, build_stages
from train.models.config import SystemConfig
from vta_rt.backends.onnxruntime import OnnxRuntimeSession
from vta_rt.errors import OptionError, VTAError
from vta_rt.files import raise_output_errors
from vta_rt.manifest import FORMAT_VERSION, GraphRecord, Manifest, Precision, Source
from vta_rt.references import MAX_ERRORS
from vta_rt.text import TOKENIZER
from vta_rt.verification import matches, record_file

PRECISIONS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VERSIONS = {module.__name__: module.__version__ for module in (vta_rt, torch, diffusers, transformers, onnxscript)}


@dataclass(frozen=True)
class Options:
    """What the user chose, beside the checkpoint."""

    precision: Precision = "fp32"
    seconds: float = 10.24  # of sound made in one pass
    dynamic_batch: bool = False  # the batch axis stays open in every graph
    dynamic_length: bool = False  # the time axis of the latents stays open


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files, configuration and weights fit together."""

    files: CheckpointFiles
    config: SystemConfig
    modules: Modules  # with their weights, as float32, in evaluation mode and without gradients


def open_checkpoint(ckpt: str | os.PathLike[str], first_stage: str | os.PathLike[str] | None = None) -> Checkpoint:
    """The first half of the line: files to modules.

    Args:
        ckpt: the weights file, its folder, a folder with one such folder, or ``hf:owner/name``.
        first_stage: file, folder or hub id of the autoencoder and vocoder; None looks beside the checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged, is of another kind, or its tensors do not fit together.
    """
    files = read_checkpoint(ckpt, first_stage)
    config = configure(files)
    modules = build_modules(config, files.weights)
    load_weights(modules, files.sources)
    return Checkpoint(files, config, modules)


def build(
    ckpt: str | os.PathLike[str],
    first_stage: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    options: Options | None = None,
    report: BuildReport | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Path:
    """Export a checkpoint as a bundle.

    Args:
        ckpt, first_stage: as for ``open_checkpoint``.
        out: the bundle's folder; None for ``engines/NAME``.
        tokenizer: the tokenizer.json of a model that takes prompts, or its folder; None looks beside the checkpoint.

    Returns:
        the bundle's folder.

    Raises:
        CheckpointError: as ``open_checkpoint``.
        OptionError: seconds or precision outside what is allowed; a tokenizer that is not this model's.
        OutputError: the folder cannot be written.
    """
    options, report = options or Options(), report or BuildReport()
    if options.precision not in PRECISIONS:
        raise OptionError(f"precision {options.precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    checkpoint = open_checkpoint(ckpt, first_stage)
    files, config = checkpoint.files, checkpoint.config
    prompts = find_tokenizer(files, config, tokenizer, report)
    model, frames = configure_runtime(config, options.seconds, prompts=prompts is not None)
    if not math.isclose(model.seconds, options.seconds):
        report.note(f"{options.seconds:g} s rounded up to {model.seconds:g} s, the next length the UNet can halve")
    out = Path(out) if out is not None else Path("engines") / files.name
    with staging_folder(out) as staging:
        report.note(f"{files.name} -> {out}: {options.precision}, {model.seconds:g} s")
        with report.step("hashing the weights"):
            exporter = f"vta_rt {vta_rt.__version__}, torch {torch.__version__}"
            source = Source(files.name, files.sha256(), exporter, config.licence, config.trained_on)
            groups = build_stages(
                checkpoint.modules,
                config,
                model,
                frames,
                dynamic_batch=options.dynamic_batch,
                dynamic_length=options.dynamic_length,
            )
        old = read_old_manifest(out)
        graphs = export_graphs(groups, out, staging, options.precision, report, old)
        engines = old.engines if old else ()  # those of graphs that are new are told by their keys
        manifest = Manifest(FORMAT_VERSION, model, frames, config.noise, graphs, source, engines, config.sampling)
        same = old and (old.model, old.frames, old.schedule, old.graphs) == (model, frames, config.noise, graphs)
        if old and same and old.references and matches(out / old.references.file, old.references):
            manifest = replace(manifest, references=old.references)
        with raise_output_errors(out):
            if prompts is not None:
                manifest = replace(manifest, tokenizer=record_file(Path(shutil.copyfile(prompts, staging / TOKENIZER))))
            write_bundle(out, staging, manifest)
    return out


def export_graphs(
    groups: list[StageGroup],
    out: Path,
    staging: Path,
    precision: Precision,
    report: BuildReport,
    old: Manifest | None = None,
) -> dict[str, GraphRecord]:
    """Export what neither an unfinished build in ``staging`` nor the old bundle in ``out`` has, and check it.

    The weights of stages that were exported are given up, group by group.
    """
    graphs: dict[str, GraphRecord] = {}
    for group in groups:
        made_from = [precision, OPSET, REVISION, VERSIONS, *group.made_from]
        key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
        records = find_finished(staging, group.name, key) or find_kept(out, old, group.name, key)
        if records is None:
            with raise_output_errors(out):
                records = _export_group(group, key, staging, precision, report)
        else:
            report.add_kept(records)
        graphs |= records
    return graphs


def _export_group(
    group: StageGroup, key: str, staging: Path, asked_for: Precision, report: BuildReport
) -> dict[str, GraphRecord]:
    """Export and check the graphs of one group in the staging folder, and leave a note of them there."""
    precisions = {stage.name: _choose_precision(stage, asked_for) for stage in group.stages}
    references, signatures, operations = {}, {}, {}
    for stage in group.stages:
        with report.step(f"{stage.name}: reference outputs of the torch module"):
            references[stage.name] = run_torch(stage)
    with WeightsFile(staging / f"{group.name}.onnx.data") as weights:
        for stage in group.stages:
            stage.module.to(PRECISIONS[precisions[stage.name]])
            with report.step(f"{stage.name}: export"):
                signatures[stage.name] = export_stage(stage, staging / f"{stage.name}.onnx", weights)
            operations[stage.name] = count_operations(ir.load(staging / f"{stage.name}.onnx"), stage.open_sizes())
    for stage in group.stages:
        stage.module.to("meta")  # the check needs the memory

    records: dict[str, GraphRecord] = {}
    shared = record_file(weights.path)
    for stage in group.stages:
        name, path = stage.name, staging / f"{stage.name}.onnx"
        inputs, outputs = signatures[name]
        record = GraphRecord(
            record_file(path),
            (shared,),
            tuple(inputs),
            tuple(outputs),
            precisions[name],
            key=key,
            operations=operations[name],
        )
        with report.step(f"{name}: check"), make_runnable(path, record.precision) as file:
            feeds = {key: value.numpy() for key, value in stage.inputs.items()}
            errors = relative_errors(
                OnnxRuntimeSession(name, record_form(record, file), file).run(feeds), references[name]
            )
        _check_errors(name, errors, record.precision)
        records[name] = replace(record, error=errors)
        report.add_built(name, records[name])
    note_finished(staging, group.name, records)
    return records


def _choose_precision(stage: Stage, asked_for: Precision) -> Precision:
    if stage.keeps_fp32:
        return "fp32"
    transposed = any(isinstance(module, torch.nn.ConvTranspose1d) for module in stage.module.modules())
    return "fp16" if asked_for == "bf16" and transposed else asked_for  # TensorRT has none for bf16


def _check_errors(name: str, errors: dict[str, float], precision: Precision) -> None:
    if not all(error <= MAX_ERRORS[precision] for error in errors.values()):
        found = ", ".join(f"{output} {error:.2g}" for output, error in errors.items())
        raise VTAError(
            f"{name}: the exported graph is not the torch module: relative error {found}; "
            f"at most {MAX_ERRORS[precision]:g} is accepted at {precision}"
        )
