"""The commands and the Python of README.md and docs/, run in order as a reader would run them; links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import mypy.api
import pytest

from tests.conftest import link_tree
from tests.vta_rt.conftest import make_clip
from vta_rt.cli.outputs import FORMATS

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(
    r"(?:<!-- not run here: (?P<reason>[^>]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```", re.M | re.S
)
NAME = "vta-ldm-clip4clip-v-large"
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


class Block(NamedTuple):
    document: str
    language: str
    text: str
    reason: str | None


def blocks() -> list[Block]:
    return [
        Block(path.name, match["language"], match["text"], match["reason"])
        for path in DOCUMENTS
        for match in BLOCK.finditer(path.read_text(encoding="utf-8"))
    ]


@pytest.fixture(scope="module")
def sandbox(
    micro_checkpoint: Path,
    bundle_short: Path,
    bundle_10s: Path,
    bundle_text: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with what the documents take for granted: videos, a checkpoint, bundles, and the commands on the PATH."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("clip", "a", "b"):
        make_clip(folder / f"{name}.mp4", seconds=1.0, audio=name == "clip")
    make_clip(folder / "film.mp4", seconds=7.0)
    (folder / "clips").mkdir()
    shutil.copy(folder / "a.mp4", folder / "clips" / "a.mp4")
    link_tree(micro_checkpoint, folder / "ckpt" / NAME)
    link_tree(micro_checkpoint, folder / "ckpt" / "audioldm-s-full.ckpt")  # a first stage may be a folder, too
    (folder / "engines").mkdir()
    for name in ("demo", "distilled"):
        (folder / "engines" / name).symlink_to(ROOT / "engines" / name)
    link_tree(bundle_10s, folder / "engines" / NAME)  # what is built already is kept
    link_tree(bundle_short, folder / "engines" / "mine")
    link_tree(bundle_text, folder / "engines" / "text")
    (folder / "bin").mkdir()
    for command, module in (("vta", "-m vta_rt.cli "), ("python", "")):
        script = folder / "bin" / command
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        script.chmod(0o755)
    return folder


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"{block.document}-{block.language}")
def test_blocks_run(block: Block, request: pytest.FixtureRequest) -> None:
    if block.reason:
        pytest.skip(f"{block.document}: {block.reason}")
    if "tensorrt-rtx" in block.text and find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("the extra tensorrt-rtx is not installed; it is for Linux on x86-64")
    folder: Path = request.getfixturevalue("sandbox")
    before = {*folder.rglob("*")}
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VTA_BUNDLE": "engines/demo",  # in a fresh clone it is the only one
    }
    start = {"sh": ["bash", "-euxc"], "python": [sys.executable, "-c"]}[block.language]
    done = subprocess.run(
        [*start, block.text], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Deprecat" not in done.stderr
    for path in {*folder.rglob("*")} - before:  # a result that exists is not replaced, and other documents make it too
        if path.suffix in FORMATS:
            path.unlink()


def test_blocks_of_python_have_the_right_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks()):
        if block.language == "python":
            Path(f"block{number}.py").write_text(block.text, encoding="utf-8")
    output, errors, code = mypy.api.run(["--strict", "--follow-imports=silent", *map(str, Path().glob("*.py"))])
    assert code == 0, output + errors


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        file = path if not target else path.parent / target
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def test_readme_is_read_in_a_minute() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
