"""From a checkpoint to a bundle: what is built, what is kept, what a stopped build leaves, what is refused."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export import bundling
from export.bundling import Options, build
from export.staging import staging_folder
from tests.conftest import link_tree, relative_error
from vta_rt.bundle import Bundle
from vta_rt.errors import OptionError, OutputError, VTAError
from vta_rt.pipeline import Pipeline

SHORT = Options(seconds=0.32)
GRAPHS = ("visual_encoder", "denoiser", "denoiser_unguided", "vae_decoder", "vocoder")


@pytest.fixture(scope="module")
def micro_bundle(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(micro_checkpoint, out=tmp_path_factory.mktemp("engines") / "micro", options=SHORT)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the graphs that are exported while a test runs."""
    names: list[str] = []
    export_stage = bundling.export_stage

    def noting(stage, path, weights):  # type: ignore[no-untyped-def]
        names.append(stage.name)
        return export_stage(stage, path, weights)

    monkeypatch.setattr(bundling, "export_stage", noting)
    return names


def operators(path: Path) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def test_all_graphs_are_built_checked_and_listed(micro_bundle: Path) -> None:
    bundle = Bundle(micro_bundle)
    assert set(bundle.manifest.graphs) == set(GRAPHS)
    for name, record in bundle.manifest.graphs.items():
        assert 0 < max(record.error.values()) < 1e-4, name
    assert bundle.manifest.source.checkpoint == "micro"
    assert "model_2.safetensors" in bundle.manifest.source.sha256
    assert not (micro_bundle / ".build").exists()


def test_only_the_latents_time_axis_is_fixed(micro_bundle: Path) -> None:
    shapes = {
        name: {spec.name: spec.shape for spec in record.inputs}
        for name, record in Bundle(micro_bundle).manifest.graphs.items()
    }
    assert shapes["visual_encoder"] == {"frames": ("frames", 224, 224, 3)}
    assert shapes["denoiser"]["latents"] == (1, 8, 8, 16)
    assert shapes["denoiser"]["tokens"] == (1, "frames", 24)
    assert shapes["denoiser"]["step"] == (8,)
    assert shapes["vae_decoder"] == {"latents": (1, 8, "latent_steps", 16)}
    assert shapes["vocoder"] == {"mel": (1, 1, "mel_frames", 64)}


@pytest.mark.parametrize("name", GRAPHS[:-1])
def test_attention_is_one_operator_before_and_after_onnx_runtime_optimises(
    bundle_short: Path, tmp_path: Path, name: str
) -> None:
    expected = {"visual_encoder": 2, "denoiser": 32, "denoiser_unguided": 32, "vae_decoder": 1}[name]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(bundle_short / f"{name}.onnx", options)
    for path in (bundle_short / f"{name}.onnx", tmp_path / "optimised.onnx"):
        found = operators(path)
        assert found["Attention"] == expected
        assert found["Softmax"] == 0


def test_a_second_build_keeps_every_graph(micro_checkpoint: Path, micro_bundle: Path, exported: list[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in micro_bundle.glob("*.onnx*")}
    build(micro_checkpoint, out=micro_bundle, options=SHORT)
    assert exported == []
    assert {path.name: path.stat().st_mtime_ns for path in micro_bundle.glob("*.onnx*")} == before


def test_another_length_builds_the_denoiser_only(
    micro_checkpoint: Path, micro_bundle: Path, tmp_path: Path, exported: list[str]
) -> None:
    link_tree(micro_bundle, tmp_path / "bundle")
    build(micro_checkpoint, out=tmp_path / "bundle", options=Options(seconds=0.64))
    assert exported == ["denoiser", "denoiser_unguided"]


def test_a_graph_that_was_altered_is_built_again(
    micro_checkpoint: Path, micro_bundle: Path, tmp_path: Path, exported: list[str]
) -> None:
    link_tree(micro_bundle, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "vocoder.onnx.data"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    build(micro_checkpoint, out=tmp_path / "bundle", options=SHORT)
    assert exported == ["vocoder"]


def test_a_stopped_build_leaves_the_old_bundle_and_goes_on_where_it_was(
    micro_checkpoint: Path, micro_bundle: Path, tmp_path: Path, exported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    link_tree(micro_bundle, out)
    changed = Options(seconds=0.32, precision="fp16")
    with monkeypatch.context() as patch:
        run_torch = bundling.run_torch

        def stopped(stage):  # type: ignore[no-untyped-def]
            if stage.name == "vae_decoder":
                raise KeyboardInterrupt
            return run_torch(stage)

        patch.setattr(bundling, "run_torch", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(micro_checkpoint, out=out, options=changed)
    assert Bundle(out).manifest.precision == "fp32"
    assert len(Bundle(out).check()) == 9

    exported.clear()
    build(micro_checkpoint, out=out, options=changed)
    assert exported == ["vae_decoder", "vocoder"]
    assert Bundle(out).manifest.precision == "fp16"


def test_a_new_bundle_is_not_there_before_it_is_whole(
    micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "relative_errors", lambda *_: {"tokens": 0.5})
    with pytest.raises(VTAError, match=r"visual_encoder: the exported graph is not the torch module: .* tokens 0.5"):
        build(micro_checkpoint, out=tmp_path / "bundle", options=SHORT)
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == [".build"]


def test_two_builds_do_not_write_into_one_folder(micro_checkpoint: Path, tmp_path: Path) -> None:
    with staging_folder(tmp_path / "bundle"), pytest.raises(OutputError, match="another build is writing"):
        build(micro_checkpoint, out=tmp_path / "bundle", options=SHORT)


def test_fp16_is_half_the_size_and_close(bundle_short: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = build(tiny_checkpoint, out=tmp_path / "half", options=Options("fp16", 0.64))
    sizes = [sum(path.stat().st_size for path in bundle.glob("*.data")) for bundle in (bundle_short, out)]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.02)
    half, whole = Pipeline(out), Pipeline(bundle_short)
    assert {record.precision for record in half.bundle.manifest.graphs.values()} == {"fp16"}
    tokens = np.random.default_rng(0).normal(size=(1, 2, 64)).astype(np.float32)
    latents = [pipeline.denoise(tokens, steps=4, seed=0) for pipeline in (half, whole)]
    assert latents[0].dtype == np.float32  # the state stays so
    assert 1e-6 < relative_error(*latents) < 2e-2
    assert attention_types(out / "denoiser.onnx") == {onnx.TensorProto.FLOAT}  # upcast_attention
    assert attention_types(out / "visual_encoder.onnx") == {onnx.TensorProto.FLOAT16}


def attention_types(path: Path) -> set[int]:
    """Of queries, keys and values."""
    model = onnx.load(path, load_external_data=False)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    return {types[name] for node in model.graph.node if node.op_type == "Attention" for name in node.input[:3]}


def test_an_open_batch_axis(micro_checkpoint: Path, micro_bundle: Path, tmp_path: Path) -> None:
    out = build(micro_checkpoint, out=tmp_path / "bundle", options=Options(seconds=0.32, dynamic_batch=True))
    together, one_by_one = Pipeline(out), Pipeline(micro_bundle)
    assert together.session("denoiser").inputs["latents"].shape == ("batch", 8, 8, 16)
    tokens = np.random.default_rng(0).normal(size=(3, 2, 24)).astype(np.float32)
    initial = np.random.default_rng(1).normal(size=(3, 8, 8, 16)).astype(np.float32)
    for guidance in (1.0, 3.0):
        latents = [p.denoise(tokens, steps=3, guidance=guidance, initial=initial) for p in (together, one_by_one)]
        assert relative_error(*latents) < 1e-4
    waves = [p.vocode(p.decode(latents[0])) for p in (together, one_by_one)]
    assert waves[0].shape == (3, 32 * 160 + 32)
    assert relative_error(*waves) < 1e-4


def test_a_length_is_rounded_up_to_one_the_network_can_halve(micro_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = bundling.open_checkpoint(micro_checkpoint)
    assert bundling.model_config(checkpoint, 1.0).seconds == 1.04  # two levels: even steps of 1/25 s
    assert bundling.model_config(checkpoint, 0.08).latent_steps == 2


@pytest.mark.parametrize("seconds", [0.0, -2.0, float("nan"), 1e6])
def test_lengths_outside_what_is_allowed(micro_checkpoint: Path, tmp_path: Path, seconds: float) -> None:
    with pytest.raises(OptionError, match="seconds is"):
        build(micro_checkpoint, out=tmp_path / "bundle", options=Options(seconds=seconds))
    assert list(tmp_path.iterdir()) == []


def test_more_frames_than_there_are_positions(checkpoint_with_positions: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="positions for 30, 15 s"):
        build(checkpoint_with_positions, out=tmp_path / "bundle", options=Options(seconds=20))


def test_folders_that_are_not_for_bundles(micro_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        build(micro_checkpoint, out=tmp_path / "file", options=SHORT)
    with pytest.raises(OutputError, match="other things in it"):
        build(micro_checkpoint, out=tmp_path, options=SHORT)
    with pytest.raises(OutputError, match="cannot be written"):
        build(micro_checkpoint, out=tmp_path / "file" / "bundle", options=SHORT)
