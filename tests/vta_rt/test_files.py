"""Files are written completely or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
import sys
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


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_written_through(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "real.txt", tmp_path / "link.txt"
    if exists:
        real.write_text("old")
    link.symlink_to("store/real.txt")
    check_writable(link)
    with atomic_write(link) as part:
        part.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert sorted(tmp_path.rglob("*")) == [link, tmp_path / "store", real]


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for write in (check_writable, lambda path: write_half(path, ValueError())):
        with pytest.raises(OutputError, match="Too many levels of symbolic links"):
            write(tmp_path / "a")


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_mode_and_owner_stay(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12346)
    before = path.stat()
    with atomic_write(path) as part:
        part.write_text("new")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_pipe_gets_the_complete_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    check_writable(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        with atomic_write(pipe) as part:
            part.write_text("new")
        assert read.result(timeout=10) == "new"
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_device(tmp_path: Path) -> None:
    with atomic_write(os.devnull) as part:
        part.write_text("new")
        assert part.suffix == ""


def test_standard_output() -> None:
    code = (
        "from vta_rt.files import write_standard_output\n"
        "with write_standard_output('a.wav') as path: path.write_bytes(bytes(range(256)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == bytes(range(256))


def test_leftovers_of_the_dead_are_removed_and_of_the_living_not(tmp_path: Path) -> None:
    dead, other = tmp_path / f".{'0' * 16}.part.txt", tmp_path / ".mine.part.txt"
    dead.write_text("half")
    other.write_text("somebody else's")
    with atomic_write(tmp_path / "a.txt") as first, atomic_write(tmp_path / "b.txt") as second:
        assert not dead.exists()
        assert first.exists()
        assert second.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.part.txt", "a.txt", "b.txt"]


def test_a_killed_writer(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from vta_rt.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as part: part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.txt"], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(tmp_path / "b.txt") as part:
        part.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("name", ["os.open", "os.close", "fcntl.flock", "os.replace", "os.chmod"])
def test_an_interrupt_right_after_any_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Ctrl-C is heard between two calls: here after each that changes something."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    module = {"os": os, "fcntl": fcntl}[name.split(".")[0]]
    real = getattr(module, name.split(".")[1])

    def interrupted(*arguments: object) -> object:
        real(*arguments)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name.split(".")[1], interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as part:
        part.write_text("new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() in ("old", "new")


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
