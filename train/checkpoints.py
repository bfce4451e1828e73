"""What a run leaves behind: a folder for each checkpoint, whole or not at all, and the names ``last`` and ``best``.

    RUN/checkpoints/00001000/model_2.safetensors, config.json    what ``export.build --ckpt`` opens
                             training.json                       step, best validation loss, settings
                             state/                              what going on exactly needs beyond that
    RUN/last, RUN/best -> checkpoints/…
    RUN/vae, RUN/vocoder, RUN/tokenizer.json                     first stage and tokenizer, laid beside

Knows no training loop.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.models.config import SystemConfig, to_dict
from train.models.weights import CheckpointError
from train.settings import TrainSettings
from train.settings import to_dict as settings_dict
from vta_rt.errors import OutputError
from vta_rt.files import atomic_write, raise_output_errors
from vta_rt.text import TOKENIZER

WEIGHTS, CONFIG, TRAINING, STATE = "model_2.safetensors", "config.json", "training.json", "state"
FOLDER = "checkpoints"
FIRST_STAGE = ("vae", "vocoder")


@dataclass(frozen=True)
class Progress:
    """How far a run is. best: lowest validation loss so far, None before the first."""

    step: int = 0
    best: float | None = None
    best_step: int | None = None


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

    def claim(self, first_stage: Path | None, tokenizer: Path | None = None, *, resume: bool) -> None:
        """Make the folder, free it from what a killed run left half-written, and lay first stage and tokenizer beside.

        Raises:
            OutputError: it cannot be written.
        """
        folder = self.path / FOLDER
        with raise_output_errors(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*.part"):
                shutil.rmtree(leftover)
            if not resume:
                (self.path / "metrics.jsonl").unlink(missing_ok=True)
            if first_stage is not None:
                self._lay_beside(first_stage)
            if tokenizer is not None:
                with atomic_write(self.path / TOKENIZER) as temporary:
                    shutil.copyfile(tokenizer, temporary)
                self._link_for_steps(TOKENIZER)

    def steps(self) -> list[int]:
        """Of the checkpoints there are, in order."""
        folder = self.path / FOLDER
        names = (path.parent.name for path in folder.glob(f"*/{TRAINING}"))
        return sorted(int(name) for name in names if name.isdecimal())

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after that many steps lies."""
        return self.path / FOLDER / f"{step:08d}"

    def name(self, name: str, step: int) -> None:
        """Let RUN/``name`` stand for a checkpoint."""
        link = self.path / name
        temporary = link.with_name(f".{name}.part")
        with raise_output_errors(link):
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(Path(FOLDER) / self.checkpoint(step).name)
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
            return  # one half alone would be taken for a whole
        for name in FIRST_STAGE:
            target = self.path / name
            if not target.exists():
                shutil.copytree(first_stage / name, target, copy_function=_link_or_copy)
            self._link_for_steps(name)

    def _link_for_steps(self, name: str) -> None:
        """Let a checkpoint that is named by its step find what lies beside ``last`` and ``best``."""
        if not (beside := self.path / FOLDER / name).exists():
            beside.symlink_to(Path("..") / name)


def save_checkpoint(
    run: RunFolder,
    accelerator: Accelerator,
    model: nn.Module,
    average: EMAModel | None,
    progress: Progress,
    config: SystemConfig,
    settings: TrainSettings,
    idle: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the checkpoint of ``progress.step``; every process calls this.

    Args:
        idle: tensors that belong to the whole but are not in the model, since training does without them.

    Raises:
        OutputError: it could not be written; nothing half-written stays.
    """
    target = run.checkpoint(progress.step)
    temporary = target.with_name(f".{target.name}.part")
    with raise_output_errors(target):
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        try:
            accelerator.save_state(str(temporary / STATE))
            if average is not None and (file := _average_file(temporary, accelerator)) is not None:
                _save_average(average, file)
            with averaged(model, average):
                tensors = accelerator.get_state_dict(model)  # the parameters themselves, so written while averaged
                if accelerator.is_main_process:
                    _save_weights({**tensors, **(idle or {})}, temporary / WEIGHTS)
            if accelerator.is_main_process:
                (temporary / CONFIG).write_text(json.dumps(to_dict(config), indent=1) + "\n")
                training = asdict(progress) | {"settings": settings_dict(settings)}
                (temporary / TRAINING).write_text(json.dumps(training, indent=1) + "\n")
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                shutil.rmtree(target, ignore_errors=True)
                os.replace(temporary, target)
        finally:
            if accelerator.is_main_process:
                shutil.rmtree(temporary, ignore_errors=True)
        accelerator.wait_for_everyone()


def load_checkpoint(folder: Path, accelerator: Accelerator, average: EMAModel | None) -> Progress:
    """Bring prepared model, optimizer and schedule back to where ``save_checkpoint`` was called."""
    training = read_training(folder)
    try:
        accelerator.load_state(str(folder / STATE))
        if average is not None and (file := _average_file(folder, accelerator, reading=True)) is not None:
            _load_average(average, file, accelerator.device)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: cannot be resumed with these settings ({reason})") from error
    accelerator.step = 0  # of the accumulation; a checkpoint always ends one
    return Progress(training["step"], training["best"], training["best_step"])


def read_training(folder: Path) -> dict[str, Any]:
    """training.json of a checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / TRAINING
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{folder}: is no checkpoint of a run (no {TRAINING})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is damaged ({error})") from error


def find_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    folder = RunFolder(run)
    if not (steps := folder.steps()):
        raise CheckpointError(f"{run}: has no checkpoint to go on from; the folder of a run is needed")
    return folder.checkpoint(steps[-1])


def read_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration (``SystemConfig`` as a dict) of a checkpoint.

    Raises:
        CheckpointError: one of the two files is missing or damaged.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: has no {name}; a folder with {WEIGHTS} and {CONFIG} is needed")
    try:
        return load_file(folder / WEIGHTS), json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from error


@contextmanager
def averaged(model: nn.Module, average: EMAModel | None) -> Iterator[None]:
    """The model with its averaged weights in place."""
    if average is None:
        yield
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    average.store(parameters)
    average.copy_to(parameters)
    try:
        yield
    finally:
        average.restore(parameters)


def _save_weights(tensors: Mapping[str, Tensor], file: Path) -> None:
    whole = {name: tensor.detach().float().contiguous().cpu() for name, tensor in tensors.items()}
    save_file(whole, file, metadata={"format": "pt"})
    file.chmod(file.parent.stat().st_mode & 0o666)  # safetensors lets nobody else read it


def _average_file(folder: Path, accelerator: Accelerator, *, reading: bool = False) -> Path | None:
    """Where this process keeps averages: one file for all, or its own where parameters are sharded."""
    state = folder / STATE
    if accelerator.distributed_type == DistributedType.FSDP:
        return state / f"average_{accelerator.process_index}.safetensors"
    return state / "average.safetensors" if reading or accelerator.is_main_process else None


def _save_average(average: EMAModel, file: Path) -> None:
    state = average.state_dict()
    tensors = {str(index): tensor.contiguous() for index, tensor in enumerate(state["shadow_params"])}
    save_file(tensors, file, metadata={"steps": str(state["optimization_step"])})


def _load_average(average: EMAModel, file: Path, device: torch.device) -> None:
    with safe_open(file, "pt", device=str(device)) as opened:
        steps = int(opened.metadata()["steps"])
        tensors = [opened.get_tensor(str(index)) for index in range(len(average.shadow_params))]
    average.load_state_dict({"optimization_step": steps, "shadow_params": tensors})


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
