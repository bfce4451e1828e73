"""Whether a checkpoint's bundle takes prompts, and by which tokenizer. Knows files beside a checkpoint; builds no graph."""

from __future__ import annotations

import os
from pathlib import Path

from export.checkpoint import Checkpoint
from export.report import BuildReport
from train.models.encoder import open_tokenizer
from vta_rt.text import TOKENIZER


def find_tokenizer(checkpoint: Checkpoint, given: str | os.PathLike[str] | None, report: BuildReport) -> Path | None:
    """The tokenizer's file; None for a bundle without prompts: of a model without text encoder, or trained on video alone.

    Published checkpoints hold a text encoder even where they were trained on video alone.

    Args:
        given: the file or its folder, where the user named one.

    Raises:
        OptionError: the file is not there or not this model's; one was named, and the model takes no prompts.
    """
    if given is not None:
        path = Path(given).expanduser()
        path = path / TOKENIZER if path.is_dir() else path
        open_tokenizer(path, checkpoint.config, str(path))
        if checkpoint.mode == "video":
            report.note(f"{checkpoint.name} was trained on video alone: what it makes of prompts is left to chance")
        return path
    if checkpoint.config.text is None or checkpoint.mode == "video" or checkpoint.config.unet.aligned_channels:
        return None
    folder = checkpoint.folder
    found = next((path for place in (folder, folder.parent) if (path := place / TOKENIZER).is_file()), None)
    if found is None:
        report.note(
            f"{checkpoint.name} has a text encoder, but no {TOKENIZER} beside it: takes no prompts (--tokenizer)"
        )
        return None
    open_tokenizer(found, checkpoint.config, str(found))
    return found
