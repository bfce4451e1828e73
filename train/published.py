"""A checkpoint in the layout of the published weights: ``summary.jsonl`` and ``pytorch_model_2.bin``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from train.checkpoints import CONFIG_FILE, read_training, read_weights
from train.models.config import CLIPConfig, SystemConfig, from_dict, to_dict
from train.models.weights import CheckpointError
from train.settings import TrainSettings, convert_settings
from vta_rt.errors import OptionError
from vta_rt.files import atomic_write, raise_output_errors

SUMMARY_FILE, PUBLISHED_WEIGHTS = "summary.jsonl", "pytorch_model_2.bin"


def write_published(checkpoint: Path, out: Path) -> list[str]:
    """Write a checkpoint's weights and settings as the published training does; returns the names of the files.

    A config.json is written too, which the published code does not read: it holds what that layout leaves open.

    Raises:
        CheckpointError: no such checkpoint, or a model that the published layout cannot tell of.
        OutputError: ``out`` cannot be written.
    """
    tensors, values = read_weights(checkpoint)
    try:
        config = from_dict(values, str(checkpoint / CONFIG_FILE))
        settings: TrainSettings = convert_settings(read_training(checkpoint)["settings"], str(checkpoint))
    except (KeyError, OptionError) as error:
        raise CheckpointError(f"{checkpoint}: cannot be published ({error})") from error
    _check(checkpoint, config)
    with raise_output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / PUBLISHED_WEIGHTS) as temporary:
        torch.save(tensors, temporary)
    with atomic_write(out / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(to_dict(config), indent=1) + "\n")
    with atomic_write(out / SUMMARY_FILE) as temporary:
        temporary.write_text(json.dumps(training_arguments(settings, config)) + "\n\n")
    return [PUBLISHED_WEIGHTS, SUMMARY_FILE, CONFIG_FILE]


def training_arguments(settings: TrainSettings, config: SystemConfig) -> dict[str, Any]:
    """What the first line of summary.jsonl says, by the published names. Paths are left out: no one else has them."""
    optimizer, length, mode = settings.optimizer, settings.length, settings.conditioning.mode
    return {
        "task": "video2audio",
        "input_mol": {"concat": "video_text"}.get(mode, mode),
        "embedding_dim": config.unet.cross_attention_dim,
        "pe": config.encoder.positions,
        "ib": False,
        "lb": False,
        "jepa": False,
        "snr_gamma": settings.loss.snr_gamma or None,
        "uncondition": settings.conditioning.dropout > 0,
        "concat_augment": settings.data.concat > 0,
        "freeze_text_encoder": True,
        "per_device_train_batch_size": length.micro_batch,
        "learning_rate": optimizer.learning_rate,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "adam_weight_decay": optimizer.weight_decay,
        "adam_epsilon": optimizer.epsilon,
        "lr_scheduler_type": optimizer.schedule,
        "num_warmup_steps": optimizer.warmup,
        "num_train_epochs": length.epochs,
        "max_train_steps": length.steps or None,
        "seed": settings.seed,
        "sample_rate": config.mel.sample_rate,
    }


def _check(checkpoint: Path, config: SystemConfig) -> None:
    """The published layout knows CLIP alone, one arrangement of blocks, and no time-aligned path."""
    unet = config.unet
    if not isinstance(config.encoder, CLIPConfig):
        what = f"its frame encoder is {config.encoder.kind}"
    elif unet.aligned_channels:
        what = "it has a time-aligned path"
    elif unet.attention is not None:
        what = "it says level by level where the UNet attends"
    else:
        return
    raise CheckpointError(f"{checkpoint}: {what}, which the published layout cannot express")
