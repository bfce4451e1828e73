"""A checkpoint in, a bundle out. Decides what to build, in which order, and what an earlier build left that will do.

Graphs are made in ``OUT/.build`` and moved into place at the end, the manifest last, so that a build that is stopped
leaves the old bundle or none; what was finished is found again by the key of everything it was made from.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import diffusers
import msgspec
import onnx_ir as ir
import onnxscript
import torch
import transformers

import vta_rt
from export import stages
from export.checkpoint import Checkpoint, open_checkpoint
from export.onnx_file import OPSET, WeightsFile, export_stage, relative_errors, run_torch, runnable
from export.operations import count_operations
from export.prompts import find_tokenizer
from export.report import BuildReport
from export.staging import staging_folder
from vta_rt.backends.onnxruntime import OnnxRuntimeSession
from vta_rt.bundle import Bundle
from vta_rt.config import FrameConfig, ModelConfig, TextConfig
from vta_rt.errors import BundleError, OptionError, VTAError
from vta_rt.files import atomic_write, raise_output_errors
from vta_rt.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    GraphRecord,
    Manifest,
    Precision,
    Source,
    is_intact,
    read_manifest,
    record_file,
    write_manifest,
)
from vta_rt.text import TOKENIZER

PRECISIONS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2}  # relative error against the torch module at fp32
VERSIONS = {module.__name__: module.__version__ for module in (vta_rt, torch, diffusers, transformers, onnxscript)}
LONGEST = 60.0  # seconds; attention over the latents grows with the square


@dataclass(frozen=True)
class Options:
    """What the user chose, beside the checkpoint. dynamic_batch, dynamic_length: axes that stay open in every graph."""

    precision: Precision = "fp32"
    seconds: float = 10.24
    dynamic_batch: bool = False
    dynamic_length: bool = False


@dataclass(frozen=True)
class Unit:
    """Graphs built together because they share a weights file.

    stages: makes them, at fp32. key: hash of everything they depend on.
    """

    name: str
    stages: Callable[[], list[stages.Stage]]
    key: str


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
        ckpt: folder, weights file or model-hub id of the diffusion model.
        first_stage: file, folder or model-hub id of the VAE and vocoder; None looks beside the checkpoint.
        out: the bundle's folder; None for ``engines/NAME``.
        tokenizer: the tokenizer.json of a model that takes prompts, or its folder; None looks beside the checkpoint.

    Returns:
        the bundle's folder.

    Raises:
        CheckpointError: the checkpoint is not what it should be.
        OptionError: seconds or precision outside what is allowed; a tokenizer that is not this model's.
        OutputError: the folder cannot be written.
    """
    options, report = options or Options(), report or BuildReport()
    if options.precision not in PRECISIONS:
        raise OptionError(f"precision {options.precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    checkpoint = open_checkpoint(ckpt, first_stage)
    model = model_config(checkpoint, options.seconds)
    frames = frame_config(checkpoint, model)
    prompts = find_tokenizer(checkpoint, tokenizer, report)
    if prompts is not None:
        model = replace(model, text=text_config(checkpoint))
    if not math.isclose(model.seconds, options.seconds):
        report.note(f"{options.seconds:g} s rounded up to {model.seconds:g} s, the next length the UNet can halve")
    out = Path(out) if out is not None else Path("engines") / checkpoint.name
    with staging_folder(out) as staging:
        report.note(f"{checkpoint.name} -> {out}: {options.precision}, {model.seconds:g} s")
        with report.step("hashing the weights"):
            hashes = checkpoint.sha256

        graphs: dict[str, GraphRecord] = {}
        old = _old_manifest(out)
        for unit in units(checkpoint, model, frames, options):
            records = _finished(staging, unit) or _kept(out, old.graphs if old else {}, unit)
            if records is None:
                with raise_output_errors(out):
                    records = _build_unit(unit, staging, options.precision, report)
            else:
                report.kept(records)
            graphs |= records
        manifest = Manifest(
            FORMAT_VERSION,
            model,
            frames,
            checkpoint.config.noise,
            graphs,
            Source(
                checkpoint.name, hashes, f"vta_rt {vta_rt.__version__}, torch {torch.__version__}", checkpoint.licence
            ),
            old.engines if old else (),  # those of graphs that are new are told by their keys
            checkpoint.config.sampling,
        )
        with raise_output_errors(out):
            if prompts is not None:
                manifest = replace(manifest, tokenizer=record_file(Path(shutil.copyfile(prompts, staging / TOKENIZER))))
            _put_in_place(out, staging, manifest)
    return out


def units(checkpoint: Checkpoint, model: ModelConfig, frames: FrameConfig, options: Options) -> Iterable[Unit]:
    """The graphs in the order they are built. Only the denoiser depends on the length: the others' time axis is open.

    The text encoder is one of them where ``model.text`` is.
    """
    batch, length = options.dynamic_batch, options.dynamic_length
    config = checkpoint.config

    def key(part: str, *depends_on: object) -> str:
        made_from = [
            fingerprint(checkpoint.parts[part].state),
            options.precision,
            OPSET,
            stages.REVISION,
            VERSIONS,
            *depends_on,
        ]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

    def denoisers() -> list[stages.Stage]:
        unet = checkpoint.unet()
        return [
            stages.denoiser(unet, model, frames, guided=guided, dynamic_batch=batch, dynamic_length=length)
            for guided in (True, False)
        ]

    def text_encoders() -> list[stages.Stage]:
        text = checkpoint.text_encoder()
        assert text is not None
        return [stages.text_encoder(text, checkpoint.encoder().linear_layer, model)]

    yield Unit(
        "visual_encoder",
        lambda: [stages.visual_encoder(checkpoint.encoder(), model, frames)],
        key("encoder", asdict(config.encoder), frames.clip_length),
    )
    negative = () if model.text is None else ("negative tokens",)
    yield Unit(
        "denoiser", denoisers, key("unet", asdict(config.unet), batch, "open" if length else model.seconds, *negative)
    )
    if model.text is not None and config.text is not None:
        linear = {name: value for name, value in checkpoint.parts["encoder"].state.items() if "linear_layer" in name}
        yield Unit(
            "text_encoder",
            text_encoders,
            key("text", asdict(config.text), fingerprint(linear)),
        )
    yield Unit(
        "vae_decoder",
        lambda: [stages.vae_decoder(checkpoint.vae(), checkpoint.scale_factor, model, dynamic_batch=batch)],
        key("vae", asdict(config.vae), batch),
    )
    yield Unit(
        "vocoder",
        lambda: [stages.vocoder(checkpoint.vocoder(), model, dynamic_batch=batch)],
        key("vocoder", asdict(config.vocoder), batch),
    )


def model_config(checkpoint: Checkpoint, seconds: float) -> ModelConfig:
    """The runtime's configuration for windows of ``seconds``, rounded up to a length the UNet can halve three times."""
    if not (math.isfinite(seconds) and 0 < seconds <= LONGEST):
        raise OptionError(f"seconds is {seconds:g}, more than 0 and at most {LONGEST:g} are allowed")
    config = checkpoint.config
    model = ModelConfig(
        seconds=seconds,
        sample_rate=config.mel.sample_rate,
        hop_length=config.mel.hop,
        mel_bins=config.mel.bins,
        latent_channels=config.unet.latent_channels,
        latent_stride=2 ** (len(config.vae.block_out_channels) - 1),
        token_width=config.encoder.tokens_dim,
        positions=config.encoder.positions,
    )
    shortest = 2 ** (len(config.unet.block_out_channels) - 1) / model.latents_per_second
    model = replace(model, seconds=round(math.ceil(round(seconds / shortest, 6)) * shortest, 6))
    rows = config.encoder.max_positions
    count = model.token_count(frame_config(checkpoint, model))
    if config.encoder.positions and rows and count > rows:
        raise OptionError(
            f"seconds is {seconds:g}, which takes {count} tokens; this checkpoint has positions for {rows}, "
            f"{rows / config.tokens_per_second:g} s"
        )
    return model


def text_config(checkpoint: Checkpoint) -> TextConfig | None:
    """What prompts become, where the checkpoint has a text encoder."""
    text = checkpoint.config.text
    return None if text is None else TextConfig(text.vocabulary, text.context)


def frame_config(checkpoint: Checkpoint, model: ModelConfig) -> FrameConfig:
    """How pictures are taken for windows of the model's length."""
    config, encoder = checkpoint.config, checkpoint.config.encoder
    frames = FrameConfig(
        rate=config.frame_rate,
        size=config.picture_size,
        fit=encoder.fit,
        clip_stride=encoder.clip_stride,
        tokens_per_second=config.tokens_per_second,
        resize=encoder.resize,
        kernel=encoder.kernel,
        encoder=encoder.kind,
    )
    return replace(frames, clip_length=encoder.multiple(model.frame_count(frames)))


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """Hex hash of named tensors, whatever file held them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _build_unit(unit: Unit, staging: Path, precision: Precision, report: BuildReport) -> dict[str, GraphRecord]:
    """Export and check the graphs of one unit in the staging folder, and leave a note of them there."""
    made = unit.stages()
    precisions = {stage.name: _precision_of(stage, precision) for stage in made}
    feeds = {stage.name: {name: value.numpy() for name, value in stage.inputs.items()} for stage in made}
    references, signatures, operations = {}, {}, {}
    for stage in made:
        with report.step(f"{stage.name}: reference outputs of the torch module"):
            references[stage.name] = run_torch(stage)
    with WeightsFile(staging / f"{unit.name}.onnx.data") as weights:
        for stage in made:
            stage.module.to(PRECISIONS[precisions[stage.name]])
            with report.step(f"{stage.name}: export"):
                signatures[stage.name] = export_stage(stage, staging / f"{stage.name}.onnx", weights)
            operations[stage.name] = count_operations(ir.load(staging / f"{stage.name}.onnx"), stage.open_sizes())
    del made, stage  # the check needs the memory
    gc.collect()

    records: dict[str, GraphRecord] = {}
    shared = record_file(weights.path)
    for name, (inputs, outputs) in signatures.items():
        path = staging / f"{name}.onnx"
        record = GraphRecord(
            record_file(path),
            (shared,),
            tuple(inputs),
            tuple(outputs),
            precisions[name],
            key=unit.key,
            operations=operations[name],
        )
        with report.step(f"{name}: check"), runnable(path, precisions[name]) as file:
            errors = relative_errors(OnnxRuntimeSession(name, record, file).run(feeds[name]), references[name])
        _accept(name, errors, precisions[name])
        records[name] = replace(record, error=errors)
        report.built(name, records[name])
    with atomic_write(_note(staging, unit.name)) as temporary:
        temporary.write_bytes(msgspec.json.encode({name: asdict(record) for name, record in records.items()}))
    return records


def _precision_of(stage: stages.Stage, asked_for: Precision) -> Precision:
    if stage.keeps_fp32:
        return "fp32"
    transposed = any(isinstance(module, torch.nn.ConvTranspose1d) for module in stage.module.modules())
    return "fp16" if asked_for == "bf16" and transposed else asked_for  # TensorRT has none for bf16


def _accept(name: str, errors: dict[str, float], precision: str) -> None:
    if not all(error <= TOLERANCE[precision] for error in errors.values()):
        found = ", ".join(f"{output} {error:.2g}" for output, error in errors.items())
        raise VTAError(
            f"{name}: the exported graph is not the torch module: relative error {found}; "
            f"at most {TOLERANCE[precision]:g} is accepted at {precision}"
        )


def _note(staging: Path, unit: str) -> Path:
    return staging / f"{unit}.json"


def _finished(staging: Path, unit: Unit) -> dict[str, GraphRecord] | None:
    """The graphs of a unit that an earlier, unfinished build left in the staging folder, if they are these very ones."""
    try:
        records = msgspec.json.decode(_note(staging, unit.name).read_bytes(), type=dict[str, GraphRecord])
    except (OSError, msgspec.MsgspecError):
        return None
    return records if _usable(staging, records, unit.key) else None


def _kept(out: Path, old: dict[str, GraphRecord], unit: Unit) -> dict[str, GraphRecord] | None:
    """The graphs of a unit that the bundle in ``out`` already has, if they are these very ones."""
    records = {name: record for name, record in old.items() if name == unit.name or name.startswith(f"{unit.name}_")}
    return records if records and _usable(out, records, unit.key) else None


def _usable(folder: Path, records: dict[str, GraphRecord], key: str) -> bool:
    return all(
        record.key == key and all(is_intact(folder / file.file, file) for file in record.files)
        for record in records.values()
    )


def _old_manifest(out: Path) -> Manifest | None:
    try:
        return read_manifest(out / MANIFEST)
    except BundleError:
        return None


def _put_in_place(out: Path, staging: Path, manifest: Manifest) -> None:
    """Move what was built beside the manifest, then the manifest, then clear away what nothing names any more.

    A process that is killed in the milliseconds between leaves a bundle that is refused on opening, for its hashes; the
    next build finds all it needs and completes it.
    """
    files = {file.file for file in manifest.files}
    for name in sorted(files):
        if (staging / name).exists():
            os.replace(staging / name, out / name)
    write_manifest(out / MANIFEST, manifest)
    shutil.rmtree(staging)
    for path in (*out.glob("*.onnx"), *out.glob("*.onnx.data"), *out.glob(TOKENIZER)):
        if path.name not in files:
            path.unlink()
    Bundle(out)  # what was written opens
