"""The command ``python -m export.build`` as a user meets it."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from export.build import main
from tests.conftest import link_tree


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt", "no/such/folder/at/all"], "no/such/folder/at/all: no such file or folder"),
        (["--ckpt", "CKPT", "--seconds", "0"], "seconds is 0"),
        (["--ckpt", "CKPT", "--first-stage", "nowhere.ckpt"], "nowhere.ckpt: no such file or folder"),
        (["--ckpt", "EMPTY"], "holds no checkpoint"),
    ],
)
def test_bad_input_on_the_command_line_is_one_line(
    micro_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    named = {"CKPT": str(micro_checkpoint), "EMPTY": str(tmp_path / "empty")}
    assert main([named.get(argument, argument) for argument in arguments]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "engines").exists()


def test_the_command_as_in_the_readme(micro_checkpoint: Path, bundle_short: Path, tmp_path: Path) -> None:
    """Also: quiet in a pipe but for the table, and the bundle is where ``vta`` looks for its name."""
    link_tree(bundle_short, tmp_path / "engines" / micro_checkpoint.name)
    (tmp_path / "engines" / micro_checkpoint.name / "vae_decoder.onnx").unlink()  # the one graph that is built again
    done = subprocess.run(
        [sys.executable, "-m", "export.build", "--ckpt", micro_checkpoint, "--seconds", "0.64"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for text in ("visual_encoder", "kept", "relative error", "MB", "peak memory"):
        assert text in done.stdout
    assert done.stderr.count("\n") == 1
    command = [sys.executable, "-m", "vta_rt.cli", "info", micro_checkpoint.name]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "engines/micro" in shown.stdout
    shutil.rmtree(tmp_path / "engines")


def test_a_full_disk_while_building(micro_checkpoint: Path, tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-m", "export.build", "--ckpt", micro_checkpoint, "--out", tmp_path / "bundle"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 2, done.stderr
    errors = done.stderr.splitlines()
    assert errors[-1].startswith("error: ")
    assert "cannot be written" in errors[-1]
    assert not (tmp_path / "bundle" / "bundle.json").exists()


def test_without_torch_it_says_what_to_install(tmp_path: Path) -> None:
    script = "import sys; sys.modules['torch'] = None; from export.build import main; sys.exit(main(['--ckpt', 'x']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'error: torch is not installed; it comes with: pip install "vta-rt[export]"\n'


def test_help_does_not_wait_for_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; from export.build import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for text in ("--first-stage", "audioldm-s-full.ckpt", "--precision", "goes on where it was"):
        assert text in done.stdout
