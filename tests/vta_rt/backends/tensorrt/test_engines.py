"""Which engines suit a machine: each reason against is one line, and no engine is loaded whose hash is another.

The engine files here are made up; tests/export builds real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vta_rt.backends.tensorrt.engines import Engines, Machine, find_engines, find_profiles
from vta_rt.backends.tensorrt.index import (
    FOLDER,
    INDEX,
    PLATFORM,
    EngineIndex,
    EngineRecord,
    EngineTarget,
    Profile,
    check_engines,
    engine_key,
    profile_inputs,
    read_index,
    write_index,
)
from vta_rt.bundle import Bundle
from vta_rt.cli import main
from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.errors import EngineError
from vta_rt.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    GraphRecord,
    Manifest,
    Source,
    TensorSpec,
    signatures,
    write_manifest,
)
from vta_rt.schedule import NoiseSchedule
from vta_rt.verification import FileRecord, record_file

TARGET = EngineTarget("tensorrt-rtx", "1.7.1.116", ("8.0", "8.6", "8.9", "12.0"), "fp32", and_later=True)
MACHINE = Machine("tensorrt-rtx", "1.7.1.116", "8.9")
WINDOWS = "win32-" + PLATFORM.partition("-")[2]
Change = Callable[[Any], Any]


@pytest.fixture
def paper_bundle(tmp_path: Path) -> Path:
    """A bundle with a complete manifest, and graphs of a few bytes. Batch and length are open; one pass is 0.64 s."""
    model, frames = ModelConfig(seconds=0.64, token_width=24), FrameConfig()
    path = tmp_path / "bundle"
    path.mkdir()
    graphs = {}
    for name, (inputs, outputs) in signatures(model, frames).items():
        (path / f"{name}.onnx").write_bytes(f"graph of {name}".encode())
        specs = [
            tuple(
                TensorSpec(tensor, tuple(_open(tensor, axis, size) for axis, size in enumerate(shape)), dtype)
                for tensor, (shape, dtype) in tensors.items()
            )
            for tensors in (inputs, outputs)
        ]
        graphs[name] = GraphRecord(record_file(path / f"{name}.onnx"), (), specs[0], specs[1], "fp32")
    source = Source("paper", {}, "a test")
    write_manifest(path / MANIFEST, Manifest(FORMAT_VERSION, model, frames, NoiseSchedule(), graphs, source))
    return path


def _open(tensor: str, axis: int, size: int | None) -> int | str:
    if tensor in ("latents", "previous", "noise", "latents_next", "denoised") and axis == 2:
        return "8*blocks"
    return f"{tensor}_{axis}" if size is None else size


def target(**changes: Any) -> EngineTarget:
    return msgspec.structs.replace(TARGET, **changes)


def add_engines(path: Path, target: EngineTarget = TARGET, *profiles: Profile) -> Path:
    """A folder of engines as a build leaves it, with made-up files."""
    manifest = Bundle(path).manifest
    folder = path / FOLDER / target.folder
    folder.mkdir(parents=True)
    records = {}
    for name, graph in manifest.graphs.items():
        for profile in profiles or (Profile(1, 0.64),):
            inputs = profile_inputs(manifest, name, profile)
            file = folder / f"{name}-{profile}.engine"
            file.write_bytes(f"engine of {name}".encode())
            key = engine_key(graph, target, inputs)
            records[key] = EngineRecord(name, record_file(file), inputs, graph.outputs, key)
    write_index(folder, EngineIndex(1, target, tuple(records.values())))
    write_manifest(path / MANIFEST, replace(manifest, engines=(*manifest.engines, target.folder)))
    return folder


@pytest.fixture
def folder(paper_bundle: Path) -> Path:
    return add_engines(paper_bundle)


def edit(path: Path, change: Change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def reason(bundle: Path, machine: Machine = MACHINE, *wanted: Any) -> str:
    """The one line that says why there are no engines, from looking for them and loading every one."""
    with pytest.raises(EngineError) as caught:
        engines = find_engines(Bundle(bundle), machine, *wanted)
        for graph in engines.records:
            engines.load(graph)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_suitable_engines_are_found_and_loaded(paper_bundle: Path, folder: Path) -> None:
    engines = find_engines(Bundle(paper_bundle), MACHINE)
    assert (engines.folder, engines.profile) == (folder, Profile(1, 0.64))
    assert engines.records.keys() == Bundle(paper_bundle).manifest.graphs.keys()
    assert engines.load("vocoder") == b"engine of vocoder"
    for record in engines.records.values():
        assert all(isinstance(size, int) for spec in record.inputs for size in spec.shape)


def test_the_format_of_the_index_and_its_keys_stays(tmp_path: Path) -> None:
    """Engines that were built before must still be found."""
    target = EngineTarget("tensorrt-rtx", "1.7.1.116", ("8.0", "8.6"), "fp16", True, "linux-x86_64")
    assert target.folder == "tensorrt-rtx-1.7.1.116-SM80-86-fp16"
    file, inputs = (
        FileRecord("a.onnx", 3, "ab" * 32),
        (TensorSpec("x", (1, 2), "float32"), TensorSpec("y", (8,), "bool")),
    )
    key = engine_key(GraphRecord(file, (file,), inputs, inputs, "fp16"), target, inputs)
    assert key == "2a7069f17fcd371db11c767e2a91dbe97b2cff227900d25c5785b9526419b901"
    index = EngineIndex(1, target, (EngineRecord("denoiser", file, inputs, inputs, key),))
    write_index(tmp_path, index)
    assert json.loads((tmp_path / INDEX).read_text())["target"] == {
        "flavour": "tensorrt-rtx",
        "version": "1.7.1.116",
        "compute_capabilities": ["8.0", "8.6"],
        "precision": "fp16",
        "and_later": True,
        "platform": "linux-x86_64",
    }
    assert read_index(tmp_path) == index


@pytest.mark.parametrize(
    ("built", "machine"),
    [
        *(({}, {"compute_capability": capability}) for capability in ("8.0", "12.0", "12.1", "13.0")),
        ({}, {"platform": WINDOWS}),  # engines of TensorRT-RTX are the same on every system
    ],
)
def test_machines_that_engines_suit(paper_bundle: Path, built: dict[str, Any], machine: dict[str, str]) -> None:
    folder = add_engines(paper_bundle, target(**built))
    assert find_engines(Bundle(paper_bundle), replace(MACHINE, **machine)).folder == folder


@pytest.mark.parametrize(
    ("built", "machine", "message"),
    [
        ({}, {"variant": "tensorrt"}, "was built by tensorrt-rtx, this machine has tensorrt"),
        ({}, {"version": "1.8.0.1"}, "was built by tensorrt-rtx 1.7.1.116, this machine has 1.8.0.1"),
        ({}, {"compute_capability": "7.5"}, "was built for compute capability 8.0, 8.6, 8.9, 12.0, this GPU has 7.5"),
        ({}, {"compute_capability": "9.0"}, "this GPU has 9.0"),
        ({}, {"platform": "linux-aarch64"}, "this machine is aarch64"),
        (
            {"variant": "tensorrt"},
            {"variant": "tensorrt", "platform": WINDOWS},
            f"was built on {PLATFORM}, this machine",
        ),
        (
            {"compute_capabilities": ("8.9",), "and_later": False},
            {"compute_capability": "12.0"},
            "for compute capability 8.9, this GPU has 12.0",
        ),
    ],
)
def test_machines_that_engines_do_not_suit(
    paper_bundle: Path, built: dict[str, Any], machine: dict[str, str], message: str
) -> None:
    folder = add_engines(paper_bundle, target(**built))
    text = reason(paper_bundle, replace(MACHINE, **machine))
    assert text.startswith(f"{folder}: ")
    assert message in text
    variant = machine.get("variant", "tensorrt-rtx")
    assert text.endswith(f"to build them here: python -m export.build --bundle {paper_bundle} --engine {variant}")


def test_another_precision_or_profile(paper_bundle: Path) -> None:
    folder = add_engines(paper_bundle, TARGET, Profile(1, 0.64), Profile(4, 1.28), Profile(4, 0.64), Profile(2, 0.64))
    engines = find_engines(Bundle(paper_bundle), MACHINE, Profile(4, 1.28))
    assert engines.folder == folder
    assert "is fp32, and fp16 is wanted" in reason(paper_bundle, MACHINE, None, "fp16")
    others = "denoiser, denoiser_unguided, vae_decoder, vocoder"
    there = "1x0.64, 2x0.64, 4x0.64, 4x1.28"
    for profile, name in ((Profile(3), "3x0.64"), (Profile(1, 1.28), "1x1.28")):
        text = reason(paper_bundle, MACHINE, profile)
        assert f"has no engine of {others} for {name} (batch x seconds), only for {there}; " in text
    assert "for 1x0.7 (" in reason(paper_bundle, MACHINE, Profile(1, 0.7))
    profiles = [engines.profile for engines in find_profiles(Bundle(paper_bundle), MACHINE)]
    assert profiles == [Profile(1, 0.64), Profile(2, 0.64), Profile(4, 0.64)], "one clip first, all of one length"


def test_a_batch_that_the_graphs_cannot_take(paper_bundle: Path, folder: Path) -> None:
    def fix_batch(manifest: Any) -> None:
        for spec in manifest["graphs"]["denoiser"]["inputs"]:
            spec["shape"][0] = 1 if spec["name"] == "latents" else spec["shape"][0]

    edit(paper_bundle / MANIFEST, fix_batch)
    message = "denoiser.onnx: takes latents [1, 8, 8*blocks, 16], not [2, 8, 16, 16]; a bundle for 2x0.64 is needed"
    assert message in reason(paper_bundle, MACHINE, Profile(2))


def test_the_encoder_takes_one_clip_whatever_the_batch(paper_bundle: Path) -> None:
    add_engines(paper_bundle, TARGET, Profile(1, 0.64), Profile(4, 0.64))
    records = find_engines(Bundle(paper_bundle), MACHINE, Profile(4)).records
    assert records["visual_encoder"].inputs[0].shape == (2, 224, 224, 3)
    assert {spec.name: spec.shape for spec in records["denoiser"].inputs} == {
        **dict.fromkeys(("latents", "previous", "noise"), (4, 8, 16, 16)),
        "tokens": (4, 2, 24),
        "token_mask": (4, 2),
        "timestep": (4,),
        "step": (8,),
    }
    assert records["vocoder"].inputs[0].shape == (4, 1, 64, 64)


def test_a_bundle_without_engines(paper_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason(paper_bundle).startswith(f"{paper_bundle}: has no engines; to build them here: ")
    assert main(["info", str(paper_bundle)]) == 0
    assert "engines      none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["engines"][2].update(key="0" * 64), "was built from another denoiser_unguided than the"),
        (
            lambda index: index["engines"].pop(),
            "has no engine of vocoder for 1x0.64 (batch x seconds), only for 1x0.64",
        ),
        (lambda index: index["engines"].clear(), "only for none"),
        (lambda index: index.update(format_version=2), f"{INDEX}: format version 2 was written by a newer vta_rt"),
        (lambda index: index.pop("target"), f"{INDEX}: Object missing required field `target`"),
        (lambda index: index["target"].update(precision="int3"), "precision"),
        (lambda index: index["target"].update(compute_capabilities=[]), "compute capabilities"),
        (lambda index: index["target"].update(compute_capabilities=["new"]), "compute capabilities"),
        (lambda index: index["engines"][0]["file"].update(file="../../evil"), "not a file name inside the folder"),
        (lambda index: index["engines"][0]["file"].update(size="big"), "size"),
    ],
)
def test_an_index_that_is_wrong(paper_bundle: Path, folder: Path, change: Change, message: str) -> None:
    edit(folder / INDEX, change)
    text = reason(paper_bundle)
    assert text.startswith(str(folder))
    assert message in text


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, None])
def test_an_index_that_is_no_json_object_or_gone(paper_bundle: Path, folder: Path, content: bytes | None) -> None:
    (folder / INDEX).unlink()
    if content is not None:
        (folder / INDEX).write_bytes(content)
    assert reason(paper_bundle).startswith(f"{folder / INDEX}: ")
    assert reason(paper_bundle).endswith("; build the engines again")


@pytest.mark.parametrize(
    ("content", "when_found", "when_loaded"),
    [
        (None, "is missing", "cannot be read"),
        (b"engine", "has 6 bytes where engine.json says 17; the file is incomplete", "has 6 bytes where"),
        (b"ENGINE of vocoder", "its sha256 is not the one in engine.json", "its sha256 is not"),
    ],
)
def test_an_engine_that_is_not_the_one_listed(
    paper_bundle: Path, folder: Path, content: bytes | None, when_found: str, when_loaded: str
) -> None:
    """Whether it changes before the engines are chosen or after."""
    engines = find_engines(Bundle(paper_bundle), MACHINE)
    file = folder / "vocoder-1x0.64.engine"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert f"vocoder-1x0.64.engine{'' if content is None else ':'} {when_found}" in reason(paper_bundle)
    with pytest.raises(EngineError, match=f"vocoder-1x0.64.engine: {when_loaded}"):
        engines.load("vocoder")
    assert engines.load("denoiser")  # the others are as they were
    with pytest.raises(EngineError, match=f"vocoder-1x0.64.engine: {when_loaded}"):
        check_engines(Bundle(paper_bundle))


def test_a_folder_outside_the_bundle(paper_bundle: Path, folder: Path) -> None:
    edit(paper_bundle / MANIFEST, lambda manifest: manifest.update(engines=["../../elsewhere"]))
    assert "is not the name of a folder of engines" in reason(paper_bundle)


def test_of_several_folders_the_one_that_suits(paper_bundle: Path, folder: Path) -> None:
    other = add_engines(paper_bundle, target(version="1.8.0.1"))
    assert find_engines(Bundle(paper_bundle), MACHINE).folder == folder
    assert find_engines(Bundle(paper_bundle), replace(MACHINE, version="1.8.0.1")).folder == other
    nearest = reason(paper_bundle, replace(MACHINE, version="1.8.0.1", compute_capability="7.5"))
    assert nearest.startswith(f"{other}: ")
    assert "this GPU has 7.5" in nearest


def test_info_and_check_show_engines(paper_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_engines(Bundle(paper_bundle)) == 5
    line = "engines      tensorrt-rtx 1.7.1.116, fp32, compute capability 8.0, 8.6, 8.9, 12.0 and later; 1x0.64; "
    index = (folder / INDEX).read_bytes()
    for change, shown in (
        (lambda index: None, "5 files, 0.0 MB\n"),
        (lambda index: index["engines"].pop(), "4 files, 0.0 MB; not all are there: build them again\n"),
        (
            lambda index: index["engines"][0].update(key="0" * 64),
            "5 files, 0.0 MB; of other graphs than these: build them again\n",
        ),
    ):
        edit(folder / INDEX, change)
        assert main(["info", str(paper_bundle)]) == 0
        assert line + shown in capsys.readouterr().out
        (folder / INDEX).write_bytes(index)


def test_bytes_are_hashed_before_they_are_given(paper_bundle: Path, folder: Path) -> None:
    """Even to someone who fills in the dataclass by hand."""
    index = read_index(folder)
    record = replace(index.engines[0], file=replace(index.engines[0].file, sha256="0" * 64))
    engines = Engines(folder, index.target, Profile(1, 0.64), {record.graph: record})
    with pytest.raises(EngineError, match="its sha256"):
        engines.load(record.graph)
