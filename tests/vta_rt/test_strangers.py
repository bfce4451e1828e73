"""Bundles and arrays from strangers: every fault is one line, and no number, name or graph reaches further than it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from vta_rt import Pipeline
from vta_rt.backends.onnxruntime import OnnxRuntimeSession
from vta_rt.bundle import Bundle
from vta_rt.errors import BundleError, OptionError
from vta_rt.manifest import MANIFEST, read_manifest

HUGE = (10**400, 2**64, 10**12, 1e300)


def numbers(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all numbers in a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (*path, key)
        else:
            yield from numbers(value, (*path, key))


def edited(document: Any, path: tuple[str | int, ...], value: Any) -> str:
    copy = json.loads(json.dumps(document))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(copy)


def expect_line(path: Path, *, allowed: bool = False) -> None:
    """Reading gives one line that names the file, or a manifest if that is allowed."""
    said = None
    try:
        read_manifest(path)
    except BundleError as error:
        said = str(error)
    assert said is not None or allowed
    if said is not None:
        assert said.startswith(str(path))
        assert "\n" not in said
        assert len(said) < 400 + len(str(path))


def test_every_number_of_a_manifest(bundle_short: Path, tmp_path: Path) -> None:
    """Sizes of files, shapes and notes may be anything, since nothing follows from them; all others have a limit."""
    document = json.loads((bundle_short / MANIFEST).read_text())
    path = tmp_path / MANIFEST
    for place in numbers(document):
        for value in (*HUGE, -1, 0, float("nan"), float("inf"), True, "1", None, [], {}):
            path.write_text(edited(document, place, value))
            expect_line(
                path, allowed=place[0] not in ("model", "frames", "schedule") or value in (0, True) or value is None
            )


@pytest.mark.parametrize(
    ("section", "field"),
    [
        *(("model", name) for name in ("sample_rate", "hop_length", "mel_bins", "latent_channels", "latent_stride")),
        *(("model", name) for name in ("token_width", "seconds")),
        *(("frames", name) for name in ("size", "clip_length", "clip_stride", "rate", "resize", "tokens_per_second")),
        ("schedule", "train_timesteps"),
    ],
)
@pytest.mark.parametrize("value", HUGE)
def test_numbers_that_things_follow_from(
    bundle_short: Path, tmp_path: Path, section: str, field: str, value: Any
) -> None:
    document = json.loads((bundle_short / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(edited(document, (section, field), value))
    expect_line(tmp_path / MANIFEST)


@pytest.mark.parametrize(
    "name",
    [
        "../x.onnx",
        "/etc/passwd",
        "a/b.onnx",
        "",
        ".",
        "..",
        "a\0b",
        "a" * 4000,
        "\\\\host\\share",
        "x" * 300,
        "é" * 200,
    ],
)
def test_names_of_files(bundle_short: Path, tmp_path: Path, name: str) -> None:
    document = json.loads((bundle_short / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(edited(document, ("graphs", "vocoder", "graph", "file"), name))
    with pytest.raises(BundleError, match="is not a file name inside the bundle"):
        Bundle(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        '{"a":' * 100_000,
        "[" * 100_000,
        '{"format_version": 1e999}',
        "\x00",
        "\ud800",
        "9" * 100_000,
    ],
)
def test_other_documents(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
    expect_line(tmp_path / MANIFEST)


@pytest.mark.parametrize("kind", ["pipe", "zero", "folder", "large"])
def test_no_ordinary_manifest(tmp_path: Path, kind: str) -> None:
    path = tmp_path / MANIFEST
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(10 << 30)  # takes no space
    expect_line(path)


def test_data_outside_of_the_folder(bundle_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A graph from memory knows no folder: it gets the listed files and no other."""
    graphs = Bundle(bundle_copy).manifest.graphs
    secret = tmp_path_factory.mktemp("private") / "secret.data"
    weights = (bundle_copy / graphs["vocoder"].weights[0].file).read_bytes()
    secret.write_bytes(weights)
    for location in (str(secret), f"../{secret.parent.name}/{secret.name}", "unlisted.data"):
        (bundle_copy / "unlisted.data").unlink(missing_ok=True)
        (bundle_copy / "unlisted.data").symlink_to(secret)
        model = onnx.load(bundle_copy / "vocoder.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path = bundle_copy / "changed.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(BundleError, match="cannot load it"):
            OnnxRuntimeSession("vocoder", graphs["vocoder"], path)


def test_weights_that_shrink_while_they_are_used(bundle_copy: Path, clip: Path) -> None:
    """They were read when the graph was loaded; a mapped file would end the process."""
    code = (
        "import os, sys, vta_rt\n"
        "pipeline = vta_rt.Pipeline(sys.argv[1], backend='cpu')\n"
        "first = pipeline.generate(sys.argv[2], steps=1)\n"
        "for name in os.listdir(sys.argv[1]):\n"
        "    if name.endswith('.data'): os.truncate(os.path.join(sys.argv[1], name), 0)\n"
        "print((pipeline.generate(sys.argv[2], steps=1).samples == first.samples).all())\n"
    )
    for path in bundle_copy.glob("*.data"):  # not the files that other tests share
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    done = subprocess.run([sys.executable, "-c", code, bundle_copy, clip], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_manifest_takes_little_memory(bundle_short: Path, tmp_path: Path) -> None:
    document = json.loads((bundle_short / MANIFEST).read_text())
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from vta_rt import VTAError; from vta_rt.manifest import read_manifest\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_manifest(Path(sys.argv[1]))\n"
        "except VTAError: pass\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
    )
    for place, value in ((("schedule", "train_timesteps"), 10**9), (("frames", "clip_length"), 10**9)):
        (tmp_path / MANIFEST).write_text(edited(document, place, value))
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / MANIFEST], capture_output=True, text=True, check=True
        )
        assert int(done.stdout) < 64  # mebibytes


@pytest.fixture(scope="module")
def pipeline(bundle_short: Path) -> Pipeline:
    return Pipeline(bundle_short, backend="cpu")


BAD_VALUES: dict[str, Any] = {
    "None": None,
    "a list of one": [1],
    "ragged": [[1], [1, 2]],
    "text": "x",
    "bytes": b"x",
    "objects": np.array([object()]),
    "complex": np.zeros((1, 1, 4, 64), complex),
    "texts": np.array([["a"]]),
    "times": np.array([["2026-01-01"]], "datetime64[D]"),
    "nothing": np.zeros((0, 1, 4, 64), np.float32),
    "a number": 3.0,
    "a dict": {},
    "a mapping of arrays": {"latents": np.zeros(3)},
    "a generator": (number for number in range(3)),
}


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode", "vocode"])
@pytest.mark.parametrize("kind", BAD_VALUES)
def test_values_that_are_no_array(pipeline: Pipeline, stage: str, kind: str) -> None:
    with pytest.raises(OptionError) as caught:
        getattr(pipeline, stage)(BAD_VALUES[kind])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("stage", ["denoise", "decode", "vocode"])
def test_values_that_are_not_finite(pipeline: Pipeline, stage: str, value: float) -> None:
    model = pipeline.model
    shape = {
        "denoise": (1, 3, model.token_width),
        "decode": model.latent_shape(),
        "vocode": (1, 1, 4, model.mel_bins),
    }[stage]
    array = np.zeros(shape, np.float64)
    array.flat[7] = value
    with pytest.raises(OptionError, match="has values that are not finite, or too large for float32"):
        getattr(pipeline, stage)(array)


@pytest.mark.parametrize("name", ["initial", "step_noise", "negative_tokens", "token_mask"])
@pytest.mark.parametrize("kind", ["ragged", "text", "objects", "complex", "a number"])
def test_other_arguments_of_denoise(pipeline: Pipeline, name: str, kind: str) -> None:
    tokens = np.zeros((1, 3, pipeline.model.token_width), np.float32)
    with pytest.raises(OptionError, match=name if name != "negative_tokens" else "negative_tokens|takes no prompts"):
        pipeline.denoise(tokens, steps=1, **{name: BAD_VALUES[kind]})
