"""Which engines suit a machine: each reason against is one line, and no engine is loaded whose hash is another.

The engine files here are made up; tests/export builds real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vta_rt.backends.tensorrt.engines import Engines, Machine, find_engines
from vta_rt.backends.tensorrt.index import (
    FOLDER,
    INDEX,
    EngineIndex,
    EngineRecord,
    Target,
    bucket_name,
    check_engines,
    engine_key,
    read_index,
    static_inputs,
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
    record_file,
    signatures,
    write_manifest,
)
from vta_rt.schedule import NoiseSchedule

TARGET = Target("tensorrt-rtx", "1.7.1.116", ("8.0", "8.6", "8.9", "12.0"), "fp32", and_later=True)
MACHINE = Machine("tensorrt-rtx", "1.7.1.116", "8.9")


@pytest.fixture
def paper_bundle(tmp_path: Path) -> Path:
    """A bundle whose manifest is whole and whose graphs are a few bytes: batch and length are open, one pass is 0.64 s."""
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


def add_engines(path: Path, target: Target = TARGET, sizes: tuple[tuple[int, float], ...] = ((1, 0.64),)) -> Path:
    """A folder of engines as a build leaves it, with made-up files; sizes: batch and seconds."""
    manifest = Bundle(path).manifest
    folder = path / FOLDER / target.folder
    folder.mkdir(parents=True)
    records = {}
    for name, graph in manifest.graphs.items():
        for batch, seconds in sizes:
            inputs = static_inputs(graph, replace(manifest.model, seconds=seconds), manifest.frames, batch)
            file = folder / f"{name}-{bucket_name(batch, seconds)}.engine"
            file.write_bytes(f"engine of {name}".encode())
            key = engine_key(graph, target, inputs)
            records[key] = EngineRecord(name, record_file(file), inputs, graph.outputs, key)
    write_index(folder, EngineIndex(1, target, tuple(records.values())))
    write_manifest(path / MANIFEST, replace(manifest, engines=(*manifest.engines, target.folder)))
    return folder


@pytest.fixture
def folder(paper_bundle: Path) -> Path:
    return add_engines(paper_bundle)


def edit_index(folder: Path, change: Callable[[Any], None]) -> None:
    document = json.loads((folder / INDEX).read_text())
    change(document)
    (folder / INDEX).write_text(json.dumps(document))


def reason(bundle: Path, machine: Machine = MACHINE, **wanted: Any) -> str:
    """The one line that says why there are no engines, looking for them and loading every one."""
    with pytest.raises(EngineError) as caught:
        engines = find_engines(Bundle(bundle), machine, **wanted)
        for graph in engines.records:
            engines.load(graph)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_engines_that_suit_are_found_and_loaded(paper_bundle: Path, folder: Path) -> None:
    engines = find_engines(Bundle(paper_bundle), MACHINE)
    assert engines.folder == folder
    assert (engines.batch, engines.seconds) == (1, 0.64)
    assert engines.records.keys() == Bundle(paper_bundle).manifest.graphs.keys()
    assert engines.load("vocoder") == b"engine of vocoder"
    for record in engines.records.values():
        assert all(isinstance(size, int) for spec in record.inputs for size in spec.shape)


def test_the_folder_is_named_after_what_it_is_for() -> None:
    assert TARGET.folder == "tensorrt-rtx-1.7.1.116-SM80-86-89-120-fp32"


@pytest.mark.parametrize("capability", ["8.0", "12.0", "12.1", "13.0"])
def test_gpus_in_the_list_and_later_ones(paper_bundle: Path, folder: Path, capability: str) -> None:
    assert find_engines(Bundle(paper_bundle), replace(MACHINE, compute_capability=capability)).folder == folder


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"flavour": "tensorrt"}, "was built by tensorrt-rtx, this machine has tensorrt"),
        ({"version": "1.8.0.1"}, "was built by tensorrt-rtx 1.7.1.116, this machine has 1.8.0.1"),
        ({"compute_capability": "7.5"}, "was built for compute capability 8.0, 8.6, 8.9, 12.0, this GPU has 7.5"),
        ({"compute_capability": "9.0"}, "this GPU has 9.0"),
        ({"platform": "linux-aarch64"}, "this machine is aarch64"),
    ],
)
def test_another_machine(paper_bundle: Path, folder: Path, machine: dict[str, str], message: str) -> None:
    text = reason(paper_bundle, replace(MACHINE, **machine))
    assert message in text
    assert str(folder) in text
    flavour = machine.get("flavour", "tensorrt-rtx")
    assert text.endswith(f"to build them here: python -m export.build --bundle {paper_bundle} --engine {flavour}")


def test_engines_for_named_gpus_run_on_no_later_ones(paper_bundle: Path) -> None:
    add_engines(paper_bundle, replace(TARGET, compute_capabilities=("8.9",), and_later=False))
    assert "for compute capability 8.9, this GPU has 12.0" in reason(
        paper_bundle, replace(MACHINE, compute_capability="12.0")
    )


def test_rtx_engines_are_the_same_on_every_system(paper_bundle: Path, folder: Path) -> None:
    there = "win32-" + TARGET.platform.partition("-")[2]
    assert find_engines(Bundle(paper_bundle), replace(MACHINE, platform=there)).folder == folder


def test_data_centre_engines_are_not(paper_bundle: Path) -> None:
    add_engines(paper_bundle, replace(TARGET, flavour="tensorrt"))
    there = "win32-" + TARGET.platform.partition("-")[2]
    assert "was built on linux" in reason(paper_bundle, replace(MACHINE, flavour="tensorrt", platform=there))


def test_another_precision_batch_or_length(paper_bundle: Path) -> None:
    folder = add_engines(paper_bundle, sizes=((1, 0.64), (4, 1.28)))
    assert find_engines(Bundle(paper_bundle), MACHINE, batch=4, seconds=1.28).folder == folder
    assert "is fp32, and fp16 is wanted" in reason(paper_bundle, precision="fp16")
    others = "denoiser, denoiser_unguided, vae_decoder, vocoder"
    for wanted, name in (({"batch": 4}, "4x0.64"), ({"seconds": 1.28}, "1x1.28"), ({"batch": 2}, "2x0.64")):
        text = reason(paper_bundle, **wanted)
        assert f"has no engine of {others} for {name} (batch x seconds), only for 1x0.64, 4x1.28; " in text
    assert "for 1x0.7 (" in reason(paper_bundle, seconds=0.7)


def test_a_batch_that_the_graphs_cannot_take(bundle_copy: Path) -> None:
    add_engines(bundle_copy)
    assert "denoiser.onnx: takes latents [1, 8, 16, 16], not [2, 8, 16, 16]; a bundle for 2x0.64" in reason(
        bundle_copy, batch=2
    )


def test_the_encoder_takes_one_clip_whatever_the_batch(paper_bundle: Path) -> None:
    add_engines(paper_bundle, sizes=((1, 0.64), (4, 0.64)))
    records = find_engines(Bundle(paper_bundle), MACHINE, batch=4).records
    assert records["visual_encoder"].inputs[0].shape == (2, 224, 224, 3)
    assert {spec.name: spec.shape for spec in records["denoiser"].inputs} == {
        **dict.fromkeys(("latents", "previous", "noise"), (4, 8, 16, 16)),
        "tokens": (4, 2, 24),
        "token_mask": (4, 2),
        "timestep": (4,),
        "step": (8,),
    }
    assert records["vocoder"].inputs[0].shape == (4, 1, 64, 64)


def test_a_bundle_without_engines(paper_bundle: Path) -> None:
    assert reason(paper_bundle).startswith(f"{paper_bundle}: has no engines; to build them here: ")


def test_an_engine_of_another_graph(paper_bundle: Path, folder: Path) -> None:
    edit_index(folder, lambda index: index["engines"][2].update(key="0" * 64))
    assert "was built from another denoiser_unguided than the bundle's" in reason(paper_bundle)


def test_an_altered_engine(paper_bundle: Path, folder: Path) -> None:
    (folder / "denoiser-1x0.64.engine").write_bytes(b"Engine of denoiser")
    assert "denoiser-1x0.64.engine: its sha256 is not the one in engine.json" in reason(paper_bundle)


def test_an_engine_cut_short(paper_bundle: Path, folder: Path) -> None:
    (folder / "vocoder-1x0.64.engine").write_bytes(b"engine")
    assert "vocoder-1x0.64.engine: has 6 bytes where engine.json says 17; the file is not whole" in reason(paper_bundle)


def test_an_engine_that_is_missing(paper_bundle: Path, folder: Path) -> None:
    (folder / "vae_decoder-1x0.64.engine").unlink()
    assert "vae_decoder-1x0.64.engine is missing" in reason(paper_bundle)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), (b"engine", "has 6 bytes"), (b"ENGINE of vocoder", "its sha256 is not")],
)
def test_an_engine_that_changes_after_it_was_chosen(
    paper_bundle: Path, folder: Path, content: bytes | None, message: str
) -> None:
    engines = find_engines(Bundle(paper_bundle), MACHINE)
    (folder / "vocoder-1x0.64.engine").unlink()
    if content is not None:
        (folder / "vocoder-1x0.64.engine").write_bytes(content)
    with pytest.raises(EngineError, match=f"vocoder-1x0.64.engine: {message}"):
        engines.load("vocoder")
    assert engines.load("denoiser")  # the others are as they were


def test_an_unfinished_folder_names_what_is_not_there_yet(paper_bundle: Path, folder: Path) -> None:
    edit_index(folder, lambda index: index["engines"].pop())
    assert "has no engine of vocoder for 1x0.64 (batch x seconds), only for 1x0.64" in reason(paper_bundle)
    edit_index(folder, lambda index: index["engines"].clear())
    assert "only for none" in reason(paper_bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(format_version=2), "format version 2 is not the one this vta_rt reads, 1"),
        (lambda index: index.pop("target"), "target"),
        (lambda index: index["target"].update(precision="int3"), "precision"),
        (lambda index: index["target"].update(compute_capabilities=[]), "compute capabilities"),
        (lambda index: index["target"].update(compute_capabilities=["new"]), "compute capabilities"),
        (lambda index: index["engines"][0]["file"].update(file="../../evil"), "not a file name inside the folder"),
        (lambda index: index["engines"][0]["file"].update(size="big"), "size"),
    ],
)
def test_an_index_that_is_wrong(paper_bundle: Path, folder: Path, change: Callable[[Any], None], message: str) -> None:
    edit_index(folder, change)
    text = reason(paper_bundle)
    assert text.startswith(str(folder / INDEX))
    assert message in text


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_an_index_that_is_no_json_object(paper_bundle: Path, folder: Path, text: bytes) -> None:
    (folder / INDEX).write_bytes(text)
    assert str(folder / INDEX) in reason(paper_bundle)


def test_a_listed_folder_that_is_gone(paper_bundle: Path, folder: Path) -> None:
    folder.rename(paper_bundle / "elsewhere")
    assert "is listed in the bundle, but is not there" in reason(paper_bundle)


def test_a_folder_outside_the_bundle(paper_bundle: Path, folder: Path) -> None:
    manifest = Bundle(paper_bundle).manifest
    write_manifest(paper_bundle / MANIFEST, replace(manifest, engines=("../../elsewhere",)))
    assert "is not the name of a folder of engines" in reason(paper_bundle)


def test_of_several_folders_the_one_that_suits(paper_bundle: Path, folder: Path) -> None:
    other = add_engines(paper_bundle, replace(TARGET, version="1.8.0.1"))
    assert find_engines(Bundle(paper_bundle), MACHINE).folder == folder
    assert find_engines(Bundle(paper_bundle), replace(MACHINE, version="1.8.0.1")).folder == other
    nearest = reason(paper_bundle, replace(MACHINE, version="1.8.0.1", compute_capability="7.5"))
    assert "this GPU has 7.5" in nearest
    assert str(other) in nearest


def test_info_shows_engines(paper_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(paper_bundle)]) == 0
    assert (
        "engines      tensorrt-rtx 1.7.1.116, fp32, compute capability 8.0, 8.6, 8.9, 12.0 and later; 1x0.64; 5 files"
    ) in (shown := capsys.readouterr().out)
    assert "not all are there" not in shown
    index = (folder / INDEX).read_bytes()
    edit_index(folder, lambda index: index["engines"].pop())
    main(["info", str(paper_bundle)])
    assert "1x0.64; 4 files, 0.0 MB; not all are there: build them again" in capsys.readouterr().out
    (folder / INDEX).write_bytes(index)
    edit_index(folder, lambda index: index["engines"][0].update(key="0" * 64))
    main(["info", str(paper_bundle)])
    assert "of other graphs than these: build them again" in capsys.readouterr().out


def test_info_of_a_bundle_without_any(paper_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(paper_bundle)]) == 0
    assert "engines      none" in capsys.readouterr().out


def test_all_engines_can_be_checked(paper_bundle: Path, folder: Path) -> None:
    assert check_engines(Bundle(paper_bundle)) == 5
    (folder / "denoiser-1x0.64.engine").write_bytes(b"Engine of denoiser")
    with pytest.raises(EngineError, match=r"denoiser-1x0.64.engine: its sha256"):
        check_engines(Bundle(paper_bundle))


def test_bytes_are_hashed_before_they_are_given(paper_bundle: Path, folder: Path) -> None:
    """Even by someone who fills in the dataclass by hand."""
    index = read_index(folder)
    record = replace(index.engines[0], file=replace(index.engines[0].file, sha256="0" * 64))
    engines = Engines(folder, index.target, 1, 0.64, {record.graph: record})
    with pytest.raises(EngineError, match="its sha256"):
        engines.load(record.graph)
