"""From a checkpoint to a bundle: what is built, what is kept, what a stopped build leaves, what is refused."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export import bundling
from export.bundle_folder import staging_folder
from export.bundling import Options, build
from export.checkpoint import read_checkpoint
from export.configure import configure, configure_runtime
from tests.conftest import link_tree, relative_error
from tests.vta_rt.test_bundle import flip_a_byte
from vta_rt.bundle import Bundle
from vta_rt.errors import OptionError, OutputError, VTAError
from vta_rt.manifest import read_manifest
from vta_rt.pipeline import Pipeline

SHORT = Options(seconds=0.64)
GRAPHS = ("visual_encoder", "denoiser", "denoiser_unguided", "vae_decoder", "vocoder")


def count_operators(path: Path) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def test_all_graphs_are_built_checked_and_listed(bundle_short: Path) -> None:
    bundle = Bundle(bundle_short)
    assert set(bundle.manifest.graphs) == set(GRAPHS)
    for name, record in bundle.manifest.graphs.items():
        assert 0 < max(record.error.values()) < 1e-4, name
    assert bundle.manifest.source.checkpoint == "micro-checkpoint"
    assert "model_2.safetensors" in bundle.manifest.source.sha256
    assert not (bundle_short / ".build").exists()


def test_only_the_latents_time_axis_is_fixed(bundle_short: Path) -> None:
    shapes = {
        name: {spec.name: spec.shape for spec in record.inputs}
        for name, record in Bundle(bundle_short).manifest.graphs.items()
    }
    assert shapes["visual_encoder"] == {"frames": ("frames", 224, 224, 3)}
    assert shapes["denoiser"]["latents"] == (1, 8, 16, 16)
    assert shapes["denoiser"]["tokens"] == (1, "frames", 24)
    assert shapes["denoiser"]["step"] == (8,)
    assert shapes["vae_decoder"] == {"latents": (1, 8, "latent_steps", 16)}
    assert shapes["vocoder"] == {"mel": (1, 1, "mel_frames", 64)}


@pytest.mark.parametrize(
    ("name", "count"), [("visual_encoder", 1), ("denoiser", 8), ("denoiser_unguided", 8), ("vae_decoder", 1)]
)
def test_attention_is_one_operator_before_and_after_onnx_runtime_optimises(
    bundle_short: Path, tmp_path: Path, name: str, count: int
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(bundle_short / f"{name}.onnx", options)
    for path in (bundle_short / f"{name}.onnx", tmp_path / "optimised.onnx"):
        found = count_operators(path)
        assert found["Attention"] == count
        assert found["Softmax"] == 0


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        (SHORT, []),
        (Options(seconds=0.72), ["denoiser"]),
        (Options(seconds=0.64, dynamic_length=True), ["denoiser"]),
        (Options(seconds=0.64, dynamic_batch=True), ["denoiser", "vae_decoder", "vocoder"]),
        (Options("fp16", seconds=0.64), ["visual_encoder", "denoiser", "vae_decoder", "vocoder"]),
    ],
)
def test_only_graphs_that_become_others_are_built_again(
    micro_checkpoint: Path,
    bundle_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Options,
    groups: list[str],
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in bundle_copy.glob("*.onnx*")}
    old = read_manifest(bundle_copy / "bundle.json").graphs
    built = []

    def take_the_old_ones(group, *_):  # type: ignore[no-untyped-def]
        built.append(group.name)
        return {stage.name: old[stage.name] for stage in group.stages}

    monkeypatch.setattr(bundling, "_export_group", take_the_old_ones)
    monkeypatch.setattr(bundling, "write_bundle", lambda *_: None)
    build(micro_checkpoint, out=bundle_copy, options=options)
    assert built == groups
    assert {path.name: path.stat().st_mtime_ns for path in bundle_copy.glob("*.onnx*")} == before


def test_a_graph_that_was_altered_is_built_again(micro_checkpoint: Path, bundle_copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle_copy.glob("vocoder.onnx*")}
    times = {path.name: path.stat().st_mtime_ns for path in bundle_copy.glob("*.onnx*")}
    flip_a_byte(bundle_copy / "vocoder.onnx.data")
    build(micro_checkpoint, out=bundle_copy, options=SHORT)
    changed = {path.name for path in bundle_copy.glob("*.onnx*") if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {"vocoder.onnx", "vocoder.onnx.data"}
    assert (bundle_copy / "vocoder.onnx.data").read_bytes() == before["vocoder.onnx.data"]


@pytest.fixture(scope="module")
def resumed(
    micro_checkpoint: Path, bundle_short: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str], int]:
    """A bundle at fp16 that a stopped build over one at fp32 began and a second one completed.

    Also the graphs that the second one exported, and how many files of the old bundle were intact in between.
    """
    out = tmp_path_factory.mktemp("engines") / "bundle"
    link_tree(bundle_short, out)
    options = Options("fp16", seconds=0.64)
    run_torch, export_stage, exported = bundling.run_torch, bundling.export_stage, []

    def stop(stage):  # type: ignore[no-untyped-def]
        if stage.name == "vae_decoder":
            raise KeyboardInterrupt
        return run_torch(stage)

    def note(stage, *arguments):  # type: ignore[no-untyped-def]
        exported.append(stage.name)
        return export_stage(stage, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "run_torch", stop)
        with pytest.raises(KeyboardInterrupt):
            build(micro_checkpoint, out=out, options=options)
    assert Bundle(out).manifest.precision == "fp32"
    intact = len(Bundle(out).check())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "export_stage", note)
        build(micro_checkpoint, out=out, options=options)
    return out, exported, intact


def test_a_stopped_build_leaves_the_old_bundle_and_goes_on_where_it_was(resumed: tuple[Path, list[str], int]) -> None:
    out, exported, intact = resumed
    assert intact == 9
    assert exported == ["vae_decoder", "vocoder"]
    assert Bundle(out).manifest.precision == "fp16"
    assert len(Bundle(out).check()) == 9
    assert not (out / ".build").exists()


def test_fp16_is_half_the_size_and_close(resumed: tuple[Path, list[str], int], bundle_short: Path) -> None:
    out = resumed[0]
    sizes = [sum(path.stat().st_size for path in bundle.glob("*.data")) for bundle in (bundle_short, out)]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.02)
    half, full = Pipeline(out), Pipeline(bundle_short)
    tokens = np.random.default_rng(0).normal(size=(1, 2, 24)).astype(np.float32)
    latents = [pipeline.denoise(tokens, steps=4, seed=0) for pipeline in (half, full)]
    assert latents[0].dtype == np.float32  # the state stays so
    assert 1e-6 < relative_error(*latents) < 2e-2
    assert find_attention_types(out / "denoiser.onnx") == {onnx.TensorProto.FLOAT}  # upcast_attention
    assert find_attention_types(out / "visual_encoder.onnx") == {onnx.TensorProto.FLOAT16}


def find_attention_types(path: Path) -> set[int]:
    """Of queries, keys and values."""
    model = onnx.load(path, load_external_data=False)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    return {types[name] for node in model.graph.node if node.op_type == "Attention" for name in node.input[:3]}


def test_a_new_bundle_is_not_there_before_it_is_complete(
    micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "relative_errors", lambda *_: {"tokens": 0.5})
    with pytest.raises(VTAError, match=r"visual_encoder: the exported graph is not the torch module: .* tokens 0.5"):
        build(micro_checkpoint, out=tmp_path / "bundle", options=SHORT)
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == [".build"]


def test_two_builds_do_not_write_into_one_folder(micro_checkpoint: Path, tmp_path: Path) -> None:
    with staging_folder(tmp_path / "bundle"), pytest.raises(OutputError, match="another build is writing"):
        build(micro_checkpoint, out=tmp_path / "bundle", options=SHORT)


def test_an_open_batch_axis(micro_checkpoint: Path, bundle_short: Path, bundle_copy: Path) -> None:
    out = build(micro_checkpoint, out=bundle_copy, options=Options(seconds=0.64, dynamic_batch=True))
    together, one_by_one = Pipeline(out), Pipeline(bundle_short)
    assert together.session("denoiser").inputs["latents"].shape == ("batch", 8, 16, 16)
    tokens = np.random.default_rng(0).normal(size=(3, 2, 24)).astype(np.float32)
    initial = np.random.default_rng(1).normal(size=(3, 8, 16, 16)).astype(np.float32)
    for guidance in (1.0, 3.0):
        latents = [p.denoise(tokens, steps=3, guidance=guidance, initial=initial) for p in (together, one_by_one)]
        assert relative_error(*latents) < 1e-4
    waves = [p.vocode(p.decode(latents[0])) for p in (together, one_by_one)]
    assert waves[0].shape == (3, 64 * 160 + 32)
    assert relative_error(*waves) < 1e-4


def test_a_length_is_rounded_up_to_one_the_network_can_halve(micro_checkpoint: Path) -> None:
    config = configure(read_checkpoint(micro_checkpoint))
    assert configure_runtime(config, 1.0)[0].seconds == 1.04  # two levels: even steps of 1/25 s
    assert configure_runtime(config, 0.08)[0].latent_steps == 2


@pytest.mark.parametrize("seconds", [0.0, -2.0, float("nan"), 1e6])
def test_lengths_outside_what_is_allowed(micro_checkpoint: Path, tmp_path: Path, seconds: float) -> None:
    with pytest.raises(OptionError, match="seconds is"):
        build(micro_checkpoint, out=tmp_path / "bundle", options=Options(seconds=seconds))
    assert list(tmp_path.iterdir()) == []


def test_more_frames_than_there_are_positions(micro_checkpoint: Path, tmp_path: Path) -> None:
    link_tree(micro_checkpoint, tmp_path / "ckpt")
    values = json.loads((tmp_path / "ckpt" / "config.json").read_text())
    values["encoder"]["positions"] = True
    (tmp_path / "ckpt" / "config.json").unlink()
    (tmp_path / "ckpt" / "config.json").write_text(json.dumps(values))
    with pytest.raises(OptionError, match="positions for 30, 15 s"):
        build(tmp_path / "ckpt", out=tmp_path / "bundle", options=Options(seconds=20))


def test_folders_that_are_not_for_bundles(micro_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        build(micro_checkpoint, out=tmp_path / "file", options=SHORT)
    with pytest.raises(OutputError, match="other things in it"):
        build(micro_checkpoint, out=tmp_path, options=SHORT)
    with pytest.raises(OutputError, match="cannot be written"):
        build(micro_checkpoint, out=tmp_path / "file" / "bundle", options=SHORT)
