"""Files are written completely or not at all."""

from __future__ import annotations

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vta_rt.errors import OutputError
from vta_rt.files import atomic_write, check_writable


def write_half(path: Path, failure: BaseException) -> None:
    with atomic_write(path) as part:
        part.write_text("half")
        raise failure


def test_appears_under_its_name_only_when_done(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_write(path) as part:
        part.write_text("new")
        assert not path.exists()
        assert part.parent == tmp_path
        assert part.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic_write(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1)])
def test_failure_leaves_the_old(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(failure)):
        write_half(path, failure)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_space(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(OutputError) as caught:
        write_half(path, OSError(errno.ENOSPC, "No space left on device"))
    assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/file.txt", "none/file.txt: cannot be written (No such file or directory)"),
        ("a\0b.wav", r"a\x00b.wav': no file can have this name"),
        (f"{'long' * 64}.wav", "cannot be written (File name too long)"),
        ("", "is a folder, a file name is needed"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    with pytest.raises(OutputError, match=re.escape(message)):
        check_writable(path)
    with pytest.raises(OutputError, match=re.escape(message)), atomic_write(path):
        pass
    assert not list(tmp_path.iterdir())


def test_checking_leaves_no_file(tmp_path: Path) -> None:
    check_writable(tmp_path / "short.wav")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"), atomic_write(tmp_path / "file.txt"):
        pytest.fail("there is no permission to write")


def test_plain_string_and_relative_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_write("file.txt") as part:
        part.write_text("new")
    assert (tmp_path / "file.txt").read_text() == "new"


def test_writers_in_many_threads_leave_the_process_as_it_was(tmp_path: Path) -> None:
    """Files get the mode an ordinary ``open`` would have given."""
    mask = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: _write(tmp_path / f"{n}.txt"), range(200)))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def _write(path: Path) -> None:
    with atomic_write(path) as part:
        part.write_text("x")
