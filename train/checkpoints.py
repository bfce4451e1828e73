"""What a run leaves behind: its checkpoints, each complete or not there at all, the names ``last`` and ``best``, its figures.

RUN/checkpoints/00001000/training.json                       step, best validation, settings
                         state/                              modules, optimizers, EMA weights, random states
                         model_2.safetensors, config.json    of train.run: what ``export.build --ckpt`` opens
RUN/last, RUN/best -> checkpoints/…
RUN/vae, RUN/vocoder, RUN/tokenizer.json                     of train.run: first stage and tokenizer, laid beside
RUN/metrics.jsonl
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.models.weights import CheckpointError
from vta_rt.documents import read_document
from vta_rt.errors import OutputError
from vta_rt.files import atomic_write, raise_output_errors
from vta_rt.text import TOKENIZER

MODEL_FILE, CONFIG_FILE, TRAINING_FILE, METRICS_FILE = (
    "model_2.safetensors",
    "config.json",
    "training.json",
    "metrics.jsonl",
)
STATE_FOLDER, CHECKPOINTS_FOLDER = "state", "checkpoints"
FIRST_STAGE = ("vae", "vocoder")


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0  # steps done
    best: float | None = None  # lowest validation figure so far, None before the first
    best_step: int | None = None
    steps: int | None = None  # length of the run, once it is known


class RunFolder:
    """The folder of one run. Only the main process calls what changes names: ``claim``, ``name`` and ``prune``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def check_free(self) -> None:
        """See that no other run's checkpoints would be mixed with this one's.

        Raises:
            OutputError: there are some, or no folder is named.
        """
        if not self.path.name:
            raise OutputError("out: name the folder of the run, for example out=runs/first")
        if self.steps():
            raise OutputError(
                f"{self.path}: holds the checkpoints of a run; go on with --resume {self.path}, or name another folder"
            )

    def claim(self, first_stage: Path | None = None, tokenizer: Path | None = None, *, resume: bool) -> None:
        """Make the folder, remove what a killed run left half-written, and lay first stage and tokenizer beside.

        A run that does not resume begins without checkpoints and figures.

        Raises:
            OutputError: it cannot be written.
        """
        folder = self.path / CHECKPOINTS_FOLDER
        with raise_output_errors(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            if not resume:
                (self.path / METRICS_FILE).unlink(missing_ok=True)
            others = [] if resume else [self.checkpoint(step) for step in self.steps()]
            for leftover in (*others, *folder.glob(".*.part")):
                shutil.rmtree(leftover)
            if first_stage is not None:
                self._lay_beside(first_stage)
            if tokenizer is not None:
                with atomic_write(self.path / TOKENIZER) as temporary:
                    shutil.copyfile(tokenizer, temporary)
                self._link_for_steps(TOKENIZER)

    def steps(self) -> list[int]:
        """Of the checkpoints there are, in order."""
        folder = self.path / CHECKPOINTS_FOLDER
        names = (path.parent.name for path in folder.glob(f"*/{TRAINING_FILE}"))
        return sorted(int(name) for name in names if name.isdecimal())

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after that many steps lies."""
        return self.path / CHECKPOINTS_FOLDER / f"{step:08d}"

    def last(self) -> Path | None:
        """The newest checkpoint, None where there is none."""
        steps = self.steps()
        return self.checkpoint(steps[-1]) if steps else None

    def name(self, name: str, step: int) -> None:
        """Let RUN/``name`` stand for a checkpoint."""
        link = self.path / name
        temporary = link.with_name(f".{name}.part")
        with raise_output_errors(link):
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(Path(CHECKPOINTS_FOLDER) / self.checkpoint(step).name)
            os.replace(temporary, link)

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all checkpoints but the newest ``keep`` and the best."""
        for step in self.steps()[:-keep]:
            if step != best:
                doomed = self.checkpoint(step).with_name(f".{step}.part")
                os.replace(self.checkpoint(step), doomed)  # at once, so that no half of it is ever opened
                shutil.rmtree(doomed)

    def _lay_beside(self, first_stage: Path) -> None:
        if not all((first_stage / name).is_dir() for name in FIRST_STAGE):
            return  # one half alone would be taken for a complete first stage
        for name in FIRST_STAGE:
            target = self.path / name
            if not target.exists():
                shutil.copytree(first_stage / name, target, copy_function=_link_or_copy)
            self._link_for_steps(name)

    def _link_for_steps(self, name: str) -> None:
        """Let a checkpoint that is named by its step find what lies beside ``last`` and ``best``."""
        if not (beside := self.path / CHECKPOINTS_FOLDER / name).exists():
            beside.symlink_to(Path("..") / name)


def save_checkpoint(
    target: Path,
    accelerator: Accelerator,
    model: nn.Module,
    ema: EMAModel | None,
    training: Mapping[str, Any],
    write: Callable[[Path, nn.Module], None],
) -> None:
    """Write a checkpoint; every process calls this.

    Args:
        model: the one that ``ema`` belongs to; all that the accelerator prepared is written.
        training: what training.json holds: ``Progress`` and the settings.
        write: called with the folder and the model, with EMA weights in place, to write what others open.

    Raises:
        OutputError: it could not be written; nothing half-written stays.
    """
    temporary = target.with_name(f".{target.name}.part")
    with raise_output_errors(target):
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        try:
            accelerator.save_state(str(temporary / STATE_FOLDER))
            if ema is not None and (file := _ema_file(temporary, accelerator)) is not None:
                _save_ema(ema, file)
            with ema_weights(model, ema):
                write(temporary, model)
            if accelerator.is_main_process:
                (temporary / TRAINING_FILE).write_text(json.dumps(training, indent=1) + "\n")
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                shutil.rmtree(target, ignore_errors=True)
                os.replace(temporary, target)
        finally:
            if accelerator.is_main_process:
                shutil.rmtree(temporary, ignore_errors=True)
        accelerator.wait_for_everyone()


def load_checkpoint(folder: Path, accelerator: Accelerator, ema: EMAModel | None) -> Progress:
    """Bring all that the accelerator prepared back to where ``save_checkpoint`` was called.

    Raises:
        CheckpointError: the checkpoint is damaged, or of other modules.
    """
    training = read_training(folder)
    try:
        accelerator.load_state(str(folder / STATE_FOLDER))
        if ema is not None and (file := _ema_file(folder, accelerator, reading=True)) is not None:
            _load_ema(ema, file, accelerator.device)
    except Exception as error:  # what torch and safetensors raise for files that are damaged has many names
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: cannot be resumed with these settings ({reason})") from error
    accelerator.step = 0  # of the accumulation; a checkpoint always ends one
    return Progress(training["step"], training["best"], training["best_step"], training.get("steps"))


def read_training(folder: Path) -> dict[str, Any]:
    """training.json of a checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not (folder / TRAINING_FILE).is_file():
        raise CheckpointError(f"{folder}: is no checkpoint of a run (no {TRAINING_FILE})")
    return read_document(folder / TRAINING_FILE, error=CheckpointError)


def find_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    if (checkpoint := RunFolder(run).last()) is None:
        raise CheckpointError(f"{run}: has no checkpoint to go on from; the folder of a run is needed")
    return checkpoint


def read_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration (``SystemConfig`` as a dict) of a checkpoint.

    Raises:
        CheckpointError: one of the two files is missing or damaged.
    """
    for name in (MODEL_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: has no {name}; a folder with {MODEL_FILE} and {CONFIG_FILE} is needed")
    try:
        tensors = load_file(folder / MODEL_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from error
    return tensors, read_document(folder / CONFIG_FILE, error=CheckpointError)


@contextmanager
def ema_weights(model: nn.Module, ema: EMAModel | None) -> Iterator[None]:
    """The model with its EMA weights in place."""
    if ema is None:
        yield
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


class MetricsFile:
    """Appends figures to a .jsonl file, one JSON object a line, and passes them on to accelerate's trackers.

    A run that goes on after ``start`` steps first drops what was recorded beyond.
    """

    def __init__(self, path: Path, task: str, start: int, accelerator: Accelerator) -> None:
        self._path, self._task, self._accelerator = path, task, accelerator
        if start and accelerator.is_main_process:
            lines = path.read_text().splitlines() if path.is_file() else []
            while lines and not self._belongs(lines[-1], start):
                lines.pop()
            with atomic_write(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record what was measured at a step; numbers that are not finite become null.

        Raises:
            OutputError: it cannot be written.
        """
        self._accelerator.log(dict(values), step=step)
        if self._accelerator.is_main_process:
            line: dict[str, Any] = {"task": self._task, "step": step}
            line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
            with raise_output_errors(self._path), self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _belongs(self, line: str, until: int) -> bool:
        """Whether a line is complete, and of another task or of a step up to ``until``."""
        try:
            values = json.loads(line)
        except ValueError:
            return False
        return values.get("task", self._task) != self._task or values["step"] <= until


def _ema_file(folder: Path, accelerator: Accelerator, *, reading: bool = False) -> Path | None:
    """Where this process keeps EMA weights: one file for all, or its own where parameters are sharded."""
    state = folder / STATE_FOLDER
    if accelerator.distributed_type == DistributedType.FSDP:
        return state / f"average_{accelerator.process_index}.safetensors"
    return state / "average.safetensors" if reading or accelerator.is_main_process else None


def _save_ema(ema: EMAModel, file: Path) -> None:
    state = ema.state_dict()
    tensors = {str(index): tensor.contiguous() for index, tensor in enumerate(state["shadow_params"])}
    save_file(tensors, file, metadata={"steps": str(state["optimization_step"])})


def _load_ema(ema: EMAModel, file: Path, device: torch.device) -> None:
    with safe_open(file, "pt", device=str(device)) as opened:
        steps = int(opened.metadata()["steps"])
        tensors = [opened.get_tensor(str(index)) for index in range(len(ema.shadow_params))]
    ema.load_state_dict({"optimization_step": steps, "shadow_params": tensors})


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
