"""Engines of TensorRT-RTX, really built, which needs no GPU: what is kept, what a kill leaves, what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from export import engines as building
from export.build import main
from export.engines import EngineBuild, parse_profile
from export.report import BuildReport
from tests.conftest import Share, link_tree
from vta_rt.backends.tensorrt.engines import Engines, Machine, find_engines
from vta_rt.backends.tensorrt.index import FOLDER, INDEX, BuilderOptions, Profile, read_index
from vta_rt.backends.tensorrt.variants import VARIANTS, load
from vta_rt.bundle import Bundle
from vta_rt.cli import main as vta
from vta_rt.errors import BundleError, DeviceError, EngineError, OptionError, VTAError
from vta_rt.manifest import MANIFEST, read_manifest

RTX = "tensorrt-rtx"
GRAPHS = ("visual_encoder", "denoiser", "denoiser_unguided", "vae_decoder", "vocoder")


def version() -> str:
    try:
        return load(VARIANTS[RTX])[1]
    except VTAError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def machine() -> Machine:
    """One that could run what is built here."""
    return Machine(RTX, version(), "8.9")


@pytest.fixture(scope="module")
def built(machine: Machine, micro_checkpoint: Path, share: Share) -> Path:
    """The micro model at fp16 with its engines, made by one command."""

    def make(out: Path) -> None:
        command = ["--ckpt", str(micro_checkpoint), "--seconds", "0.32", "--precision", "fp16", "--out", str(out)]
        assert main([*command, "--engine", RTX]) == 0

    return share("micro-engines", make)


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A copy by links: its files may be replaced or removed, not written into."""
    link_tree(built, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the engines built while a test runs."""
    names: list[str] = []
    build = building.EngineBuild._build

    def note(self, bundle, folder, item, report):  # type: ignore[no-untyped-def]
        names.append(item.file)
        return build(self, bundle, folder, item, report)

    monkeypatch.setattr(building.EngineBuild, "_build", note)
    return names


@pytest.fixture
def made_up(made: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As ``made``, with engines of a few bytes in place of TensorRT's, for tests of which engines are built."""
    monkeypatch.setattr(
        building.EngineBuilder, "build", lambda self, graph, inputs, phases: (f"of {graph.name}".encode(), ())
    )
    return made


def engine_folder(bundle: Path) -> Path:
    (folder,) = (bundle / FOLDER).iterdir()
    return folder


def reason(bundle: Path, machine: Machine) -> str:
    with pytest.raises(EngineError) as caught:
        engines = find_engines(Bundle(bundle), machine)
        for graph in GRAPHS:
            engines.load(graph)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def load_all(engines: Engines) -> int:
    return sum(len(engines.load(graph)) for graph in GRAPHS)


def test_one_command_builds_an_engine_of_every_graph(built: Path, machine: Machine) -> None:
    engines = find_engines(Bundle(built), machine)
    assert engines.records.keys() == set(GRAPHS)
    assert engines.folder.name == f"{RTX}-{machine.version}-SM80-86-89-120-fp16"
    assert load_all(engines) == sum(path.stat().st_size for path in engines.folder.glob("*.engine"))
    assert read_manifest(built / MANIFEST).engines == (engines.folder.name,)
    assert not (built / ".build").exists()
    assert sorted(path.name for path in engines.folder.iterdir()) == sorted(
        [INDEX, *(f"{graph}-1x0.32.engine" for graph in GRAPHS)]
    )


def test_engines_have_the_sizes_of_their_profile(built: Path, machine: Machine) -> None:
    records = find_engines(Bundle(built), machine).records
    specs = {
        graph: {spec.name: (spec.shape, spec.dtype) for spec in (*record.inputs, *record.outputs)}
        for graph, record in records.items()
    }
    assert specs["visual_encoder"] == {"frames": ((1, 224, 224, 3), "uint8"), "tokens": ((1, 24), "float32")}
    assert specs["denoiser"]["tokens"] == ((1, 1, 24), "float32")
    assert specs["denoiser"]["token_mask"] == ((1, 1), "bool")
    assert specs["denoiser"]["latents_next"] == ((1, 8, 8, 16), "float32")
    assert specs["vae_decoder"]["mel"] == ((1, 1, 32, 64), "float32")
    wave, dtype = specs["vocoder"]["wave"]
    assert wave[0] == 1
    assert wave[1] >= 32 * 160
    assert dtype == "float32"


def test_vta_shows_and_checks_them(bundle: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert vta(["info", str(bundle)]) == 0
    assert f"engines      {RTX} {machine.version}, fp16" in capsys.readouterr().out
    assert vta(["check", str(bundle)]) == 0
    assert "5 engines intact" in capsys.readouterr().out


def replace_file(path: Path, content: bytes) -> None:
    path.unlink()  # it is a link
    path.write_bytes(content)


def test_a_second_build_keeps_them(bundle: Path, made: list[str]) -> None:
    before = (engine_folder(bundle) / INDEX).read_bytes()
    EngineBuild(RTX).run(bundle, BuildReport())
    assert made == []
    assert (engine_folder(bundle) / INDEX).read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("altered", "vae_decoder-1x0.32.engine: its sha256 is not the one in engine.json"),
        ("cut short", "the file is incomplete"),
        ("deleted", "vae_decoder-1x0.32.engine is missing"),
        ("not listed", "has no engine of vae_decoder for 1x0.32"),
    ],
)
def test_only_what_is_damaged_is_built_again(
    bundle: Path, machine: Machine, made_up: list[str], damage: str, message: str
) -> None:
    folder = engine_folder(bundle)
    path = folder / "vae_decoder-1x0.32.engine"
    content = path.read_bytes()
    if damage == "altered":
        replace_file(path, bytes([*content[:1000], content[1000] ^ 1, *content[1001:]]))
    elif damage == "cut short":
        replace_file(path, content[:-1])
    elif damage == "deleted":
        path.unlink()
    else:
        index = json.loads((folder / INDEX).read_text())
        index["engines"] = [record for record in index["engines"] if record["graph"] != "vae_decoder"]
        replace_file(folder / INDEX, json.dumps(index).encode())
    assert message in reason(bundle, machine)
    EngineBuild(RTX).run(bundle, BuildReport())
    assert made_up == ["vae_decoder-1x0.32.engine"]
    assert load_all(find_engines(Bundle(bundle), machine))


def test_an_index_that_cannot_be_read_and_other_options_mean_building_anew(
    bundle: Path, machine: Machine, made_up: list[str]
) -> None:
    replace_file(engine_folder(bundle) / INDEX, b"{")
    EngineBuild(RTX).run(bundle, BuildReport())
    assert len(made_up) == 5
    assert load_all(find_engines(Bundle(bundle), machine))
    EngineBuild(RTX, options=BuilderOptions(optimization_level=1)).run(bundle, BuildReport())
    assert len(made_up) == 10
    assert {record.builder.optimization_level for record in read_index(engine_folder(bundle)).engines} == {1}


def test_gpus_asked_for_have_a_folder_of_their_own(bundle: Path, machine: Machine, made_up: list[str]) -> None:
    folder = EngineBuild(RTX, compute_capabilities=["8.9"]).run(bundle, BuildReport())
    assert len(made_up) == 5
    assert folder.name == f"{RTX}-{machine.version}-SM89-fp16"
    bundles = Bundle(bundle)
    assert len(bundles.manifest.engines) == 2
    assert find_engines(bundles, replace(machine, compute_capability="12.0")).folder != folder
    (bundle / FOLDER / bundles.manifest.engines[0]).rename(bundle / "elsewhere")
    assert find_engines(bundles, machine).folder == folder
    assert "was built for compute capability 8.9, this GPU has 12.0" in reason(
        bundle, replace(machine, compute_capability="12.0")
    )


def test_engines_of_another_export_are_refused_then_replaced(
    bundle: Path, machine: Machine, made_up: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The vocoder's graph becomes another one; the engines of the other graphs are kept."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    content = (bundle / "vocoder.onnx").read_bytes() + b"\x32\x00"  # an empty doc string at the end
    replace_file(bundle / "vocoder.onnx", content)
    manifest["graphs"]["vocoder"]["graph"] |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    replace_file(bundle / MANIFEST, json.dumps(manifest).encode())
    assert "vocoder-1x0.32.engine was built from another vocoder than the bundle's" in reason(bundle, machine)
    vta(["info", str(bundle)])
    assert "of other graphs than these: build them again" in capsys.readouterr().out
    EngineBuild(RTX).run(bundle, BuildReport())
    assert made_up == ["vocoder-1x0.32.engine"]
    assert load_all(find_engines(Bundle(bundle), machine))


@pytest.mark.slow
def test_several_sizes_in_one_build(
    micro_checkpoint: Path, tmp_path: Path, machine: Machine, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """At bf16, which ONNX Runtime's CPU provider cannot run: the graphs are checked all the same."""
    out = tmp_path / "bundle"
    command = ["--ckpt", str(micro_checkpoint), "--precision", "bf16", "--out", str(out), "--engine", RTX]
    assert main([*command, "--profile", "1x0.32", "2x0.5"]) == 0
    manifest = Bundle(out).manifest
    assert manifest.precision == "bf16+fp16"  # TensorRT has no transposed convolution for bf16
    assert manifest.model.seconds == 0.32
    assert manifest.references is not None
    assert all(0 < max(record.error.values()) < 5e-2 for record in manifest.graphs.values())
    assert len(made) == 10
    assert find_engines(Bundle(out), machine).target.precision == "bf16"
    longer = find_engines(Bundle(out), machine, Profile(2, 0.56))  # rounded up to what the UNet can halve
    assert longer.records["denoiser"].inputs[0].shape == (2, 8, 14, 16)
    assert longer.records["visual_encoder"].inputs[0].shape == (2, 224, 224, 3)
    with pytest.raises(EngineError, match=r"only for 1x0.32, 2x0.56"):
        find_engines(Bundle(out), machine, Profile(2))

    made.clear()
    with pytest.warns(DeprecationWarning, match="--bucket is now called --profile"):
        assert main(["--bundle", str(out), "--engine", RTX, "--bucket", "3"]) == 0
    assert made == [f"{graph}-3x0.32.engine" for graph in GRAPHS[1:]]  # the encoder of one clip is there
    assert "kept" in capsys.readouterr().out
    for batch, seconds in ((1, 0.32), (2, 0.56), (3, 0.32)):
        find_engines(Bundle(out), machine, Profile(batch, seconds))


@pytest.mark.slow
def test_fp32(bundle_copy: Path, machine: Machine) -> None:
    """No attention kernel is made for fp32: TensorRT puts it together from others."""
    EngineBuild(RTX).run(bundle_copy, BuildReport())
    assert find_engines(Bundle(bundle_copy), machine).target.precision == "fp32"


def test_a_killed_build_leaves_a_usable_folder(bundle: Path, machine: Machine, made: list[str]) -> None:
    folder = engine_folder(bundle)
    for path in folder.iterdir():
        path.unlink()
    command = [sys.executable, "-m", "export.build", "--bundle", str(bundle), "--engine", RTX]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(finished(folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = finished(folder)
    assert 2 <= len(there) < 5
    (folder / ".0123456789abcdef.part.engine").write_bytes(b"half")  # as a kill in mid-write leaves it

    assert "has no engine of" in reason(bundle, machine)
    with BuildReport() as report:
        EngineBuild(RTX).run(bundle, report)
    assert len(made) == 5 - len(there)
    assert not set(made) & set(there)
    assert load_all(find_engines(Bundle(bundle), machine))
    assert not list(folder.glob(".*"))


def finished(folder: Path) -> list[str]:
    """The engines that the index lists, each of which must be complete."""
    with contextlib.suppress(EngineError):
        index = read_index(folder)
        for record in index.engines:
            assert (folder / record.file.file).stat().st_size == record.file.size
        return [record.file.file for record in index.engines]
    return []


def test_a_bundle_needs_no_torch_for_its_engines(bundle: Path, machine: Machine) -> None:
    script = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        f"from export.build import main; sys.exit(main(['--bundle', {str(bundle)!r}, '--engine', {RTX!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kept") == 5
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "two"], "profile 'two' is not BATCH or BATCHxSECONDS, such as 4 or 4x10.24"),
        (["--profile", "0"], "a batch of 1 or more"),
        (["--profile", "1xnan"], "more than 0 seconds"),
        (["--profile", "2"], "takes latents [1, 8, 8, 16], not [2, 8, 8, 16]; a bundle for 2x0.32 is needed"),
        (["--profile", "1x5.12"], "a bundle for 1x5.12 is needed"),
        (
            ["--compute-capability", "9.9"],
            "compute capability '9.9' is none to build for; choose from current, 7.5, 8.0",
        ),
        (["--compute-capability", "current", "8.9"], "goes with no other"),
        (["--optimization-level", "7"], "optimization level is 7, an integer from 0 to 5 is needed"),
        (["--workspace-mb", "0"], "workspace, in MB, is 0"),
        (["--max-aux-streams", "-1"], "max_aux_streams is -1"),
        (["--precision", "fp32"], "--precision goes with --ckpt"),
        (["--seconds", "5"], "--seconds goes with --ckpt"),
        (["--engine", "onnx"], "is a bundle already"),
    ],
)
def test_bad_options_are_one_line_and_change_nothing(
    bundle: Path, machine: Machine, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*") if path.is_file()}
    assert main(["--bundle", str(bundle), "--engine", RTX, *arguments]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*") if path.is_file()} == before


def test_a_gpu_that_tensorrt_rtx_does_not_run_on_is_refused_before_the_build(
    bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would build for an H100 and then refuse to load the engine; GPUs newer than all it knows are left to it."""
    monkeypatch.setattr("export.engines.compute_capability", lambda: "9.0")
    assert main(["--bundle", str(bundle), "--engine", RTX, "--compute-capability", "current"]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("error: tensorrt-rtx runs on no GPU of compute capability 9.0, as here (it does on 7.5, ")
    assert errors.count("\n") == 1
    monkeypatch.setattr("export.engines.compute_capability", lambda: "13.0")
    EngineBuild(RTX, compute_capabilities=["current"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "2"], "name them with --engine"),
        (["--compute-capability", "8.9"], "name them with --engine"),
        (["--precision", "bf16"], "bf16 graphs run as engines only"),
        (["--engine", "tensorrt"], 'error: tensorrt is not installed; it comes with: pip install "vta-rt[tensorrt]"\n'),
        (["--engine", RTX], f'error: {RTX} is not installed; it comes with: pip install "vta-rt[{RTX}]"\n'),
    ],
)
def test_options_that_fail_before_anything_is_exported(
    micro_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--ckpt", str(micro_checkpoint), *arguments]) == 2
    out, errors = capfd.readouterr()
    assert (out, errors.count("\n")) == ("", 1)
    assert message in errors
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle(tmp_path: Path, machine: Machine) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        EngineBuild(RTX).run(tmp_path, BuildReport())
    assert not list(tmp_path.iterdir())


def test_data_centre_engines_want_the_gpu_they_are_for(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(building, "load", lambda variant: (object(), "11.4.0.106"))

    def no_gpu() -> str:
        raise DeviceError("there is no GPU 0 to use (cudaErrorNoDevice)")

    monkeypatch.setattr(building, "compute_capability", no_gpu)
    with pytest.raises(OptionError, match=r"tensorrt builds for the GPU it runs on, not for 8.9"):
        EngineBuild("tensorrt", compute_capabilities=["8.9"])
    with pytest.raises(
        EngineError, match=r"there is no GPU 0 .* tensorrt was to build for .*; tensorrt-rtx needs none"
    ):
        EngineBuild("tensorrt")


def test_profiles() -> None:
    assert parse_profile("4") == Profile(4)
    assert parse_profile("4x10.24") == Profile(4, 10.24)
    assert parse_profile("4X5") == Profile(4, 5.0)
