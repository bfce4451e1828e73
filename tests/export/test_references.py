"""References of a bundle: made at the build, compared by ``vta check``, and what a check finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.build import main as build
from export.bundling import Options
from export.bundling import build as export_bundle
from export.references import add_references
from tests.conftest import Share, link_tree
from vta_rt.bundle import Bundle
from vta_rt.cli import main
from vta_rt.errors import BundleError
from vta_rt.files import atomic_write
from vta_rt.manifest import MANIFEST, REFERENCES, read_manifest, write_manifest
from vta_rt.pipeline import Pipeline
from vta_rt.references import LOOP, SOUND, compare_with_references, read_references
from vta_rt.verification import file_stamp, record_file

STAGES = ["visual_encoder", "denoiser", "denoiser_unguided", "vae_decoder", "vocoder", LOOP, SOUND]


@pytest.fixture(scope="module")
def bundle_with_references(bundle_short: Path, share: Share) -> Path:
    def add(out: Path) -> None:
        link_tree(bundle_short, out)
        assert build(["--bundle", str(out), "--references"]) == 0

    return share("bundle-references", add)


@pytest.fixture
def bundle(bundle_with_references: Path, tmp_path: Path) -> Path:
    """A copy whose files may be replaced."""
    link_tree(bundle_with_references, tmp_path / "bundle")
    return tmp_path / "bundle"


def write_anew(path: Path, content: bytes) -> None:
    """A file with other links keeps its content there."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def scale_weights(bundle: Path, graph: str) -> None:
    """Double every weight of a graph and list the new file, as if it had been built so."""
    manifest = Bundle(bundle).manifest
    record = manifest.graphs[graph]
    path = bundle / record.weights[0].file
    write_anew(path, (np.fromfile(path, np.float32) * 2).tobytes())
    graphs = manifest.graphs | {graph: replace(record, weights=(record_file(path),))}
    write_manifest(bundle / MANIFEST, replace(manifest, graphs=graphs))


def edit_references(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((bundle / REFERENCES).read_text())
    edit(document)
    write_anew(bundle / REFERENCES, json.dumps(document).encode())
    manifest = json.loads((bundle / MANIFEST).read_text())
    record = record_file(bundle / REFERENCES)
    manifest["references"] = {"file": record.file, "size": record.size, "sha256": record.sha256}
    write_anew(bundle / MANIFEST, json.dumps(manifest).encode())


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_a_check_compares_every_graph_the_loop_and_the_sound(
    bundle_with_references: Path, backend: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["check", str(bundle_with_references), "--backend", backend, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["files"], found["graphs"], found["references"], found["passed"]) == (10, 5, True, True)
    assert [row["stage"] for row in found["stages"]] == STAGES
    assert all(row["relative_error"] < 1e-5 for row in found["stages"])
    assert [row["allowed"] for row in found["stages"]] == [1e-4] * 5 + [2e-4] * 2


def test_the_table(bundle_with_references: Path, bundle_short: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", str(bundle_with_references), "--backend", "cpu"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[3] == "graph relative error allowed"
    assert [line.rsplit(maxsplit=2)[0] for line in lines[4:]] == STAGES
    assert main(["check", str(bundle_short), "--backend", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("no references")


@pytest.mark.parametrize("graph", ["visual_encoder", "vae_decoder", "vocoder"])
def test_a_graph_that_gives_something_else_is_named(bundle: Path, graph: str, capsys: pytest.CaptureFixture) -> None:
    """Alone: the other graphs get inputs of their own."""
    scale_weights(bundle, graph)
    assert main(["check", str(bundle), "--backend", "cpu", "--json"]) == 2
    shown = capsys.readouterr()
    stages = {row["stage"]: row for row in json.loads(shown.out)["stages"]}
    wrong = {name for name, row in stages.items() if not row["relative_error"] <= row["allowed"]}
    assert wrong & set(STAGES[:5]) == {graph}
    assert SOUND in wrong
    assert shown.err.startswith(f"error: {bundle}: {graph} gives something else here than where it was built: relative")
    assert shown.err.count("\n") == 1


def test_the_error_from_sketches_is_that_of_the_arrays(bundle_with_references: Path) -> None:
    pipeline = Pipeline(bundle_with_references, backend="cpu")
    references = read_references(pipeline.bundle)
    assert references is not None
    run = pipeline.session("vocoder")._run
    errors = []

    def disturbed(feeds: Any, lane: Any) -> Any:
        wave = run(feeds, lane)["wave"]
        noise = np.random.default_rng(0).standard_normal(wave.shape, np.float32) * np.float32(0.001)
        errors.append(np.linalg.norm(noise) / np.linalg.norm(wave))
        return {"wave": wave + noise}

    pipeline.session("vocoder")._run = disturbed  # type: ignore[method-assign]
    found = {difference.stage: difference for difference in compare_with_references(pipeline, references)}
    assert found["vocoder"].relative_error == pytest.approx(errors[0], rel=0.2)
    assert found["vocoder"].is_too_large
    assert not found[LOOP].is_too_large


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda document: document.update(made_with="\x1b[2J"), r"made_with is '\\x1b\[2J', a line of text is needed"),
        (lambda document: document.update(format_version=2), "format version 2 was written by a newer vta_rt"),
        (lambda document: document.pop("outputs"), "missing required field `outputs`"),
        (
            lambda document: document["sampling"].update(solver="x"),
            "its section sampling is not possible: solver is 'x'",
        ),
        (lambda document: document["sampling"].update(steps=900), "sampling.steps is 900, at most 4 are allowed"),
    ],
)
def test_references_that_cannot_be_read(bundle: Path, edit: Callable, message: str) -> None:
    edit_references(bundle, edit)
    with pytest.raises(BundleError, match=message) as caught:
        read_references(Bundle(bundle))
    assert str(bundle / REFERENCES) in str(caught.value)


def test_references_of_another_shape_or_none_differ(bundle: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["outputs"]["vocoder"]["sketch"].pop()
        document["outputs"]["vae_decoder"]["shape"][1] += 1
        document["outputs"]["denoiser"]["norm"] = 0.0
        document["outputs"]["denoiser_unguided"]["sketch"][0] = 1e308
        del document["outputs"]["visual_encoder"]

    edit_references(bundle, edit)
    pipeline = Pipeline(bundle, backend="cpu")
    references = read_references(pipeline.bundle)
    assert references is not None
    wrong = [
        difference.stage for difference in compare_with_references(pipeline, references) if difference.is_too_large
    ]
    assert wrong == STAGES[:5]


def test_a_build_keeps_the_references_of_graphs_that_it_keeps(bundle: Path, micro_checkpoint: Path) -> None:
    before, same = file_stamp(bundle / REFERENCES), Options(seconds=0.64)
    assert build(["--ckpt", str(micro_checkpoint), "--out", str(bundle), "--seconds", "0.64"]) == 0
    assert file_stamp(bundle / REFERENCES) == before
    (bundle / REFERENCES).unlink()
    export_bundle(micro_checkpoint, out=bundle, options=same)
    assert Bundle(bundle).manifest.references is None
    add_references(bundle)
    manifest = read_manifest(bundle / MANIFEST)
    old = manifest.graphs | {"vae_decoder": replace(manifest.graphs["vae_decoder"], key="of other weights")}
    write_manifest(bundle / MANIFEST, replace(manifest, graphs=old))
    export_bundle(micro_checkpoint, out=bundle, options=same)
    assert Bundle(bundle).manifest.references is None  # the function does not make them; the command does
    assert not (bundle / REFERENCES).exists()


def test_a_link_to_those_of_another_bundle_is_not_written_through(bundle: Path, tmp_path: Path) -> None:
    others = tmp_path / "others.json"
    (bundle / REFERENCES).rename(others)
    others.write_bytes(others.read_bytes() + b" ")
    (bundle / REFERENCES).symlink_to(others)
    before = others.read_bytes()
    record = replace(record_file(others), file=REFERENCES)
    write_manifest(bundle / MANIFEST, replace(read_manifest(bundle / MANIFEST), references=record))
    add_references(bundle, anew=True)
    assert others.read_bytes() == before
    assert not (bundle / REFERENCES).is_symlink()
    assert Bundle(bundle).manifest.references is not None
