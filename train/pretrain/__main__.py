"""The command ``python -m train.pretrain``. Knows arguments and files; ``loop`` does the work."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from vta_rt.cli import run_command
from vta_rt.errors import OptionError, VTAError
from vta_rt.files import check_writable, replacing


def main(arguments: Sequence[str] | None = None) -> int:
    """Pretrain as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_pretrain, arguments)


def _pretrain(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        import torch
        from safetensors.torch import save

        from train.data.prepared import PreparedSource
        from train.encoder import build_encoder
        from train.pretrain.loop import PretrainSettings, pretrain
        from train.settings import read_model
    except ModuleNotFoundError as error:
        raise VTAError(f'{error.name} is not installed; training needs: pip install "vta-rt[train]"') from error

    if options.threads:
        torch.set_num_threads(options.threads)
    system = read_model(options.config)
    train, valid = PreparedSource(options.data), PreparedSource(options.valid)
    for path, source in ((options.data, train), (options.valid, valid)):
        if source.recipe.tensors != {"frames", "wave"}:
            raise OptionError(f"{path}: holds no pictures with their sound; prepare clips with --frames-only")
        if len(source) == 0:
            raise OptionError(f"{path}: lists no clips")
    settings = PretrainSettings(steps=options.steps, batch=options.batch, window=options.window, seed=options.seed)
    out = Path(options.out)
    check_writable(out)
    torch.manual_seed(settings.seed)
    encoder = build_encoder(system.encoder).to(options.device)
    rows = pretrain(encoder, system, train, valid, settings, mixed_precision=options.bf16)
    for row in (bar := tqdm(rows, total=settings.steps, unit="step", disable=None, leave=False)):
        bar.set_postfix(loss=f"{row['loss']:.3f}")
        if "valid_loss" in row:
            tower = {name: tensor.cpu().contiguous() for name, tensor in encoder.tower.state_dict().items()}
            with replacing(out) as part:
                part.write_bytes(save(tower))
            with out.with_suffix(".jsonl").open("w" if row["step"] <= settings.validate_every else "a") as log:
                log.write(json.dumps(row) + "\n")
    print(f"{out}: {settings.steps} steps, valid loss {row['valid_loss']:.3f}, onset F1 {row['onset_f1_50ms']:.3f}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.pretrain",
        description="Teach a frame encoder's tower what sound belongs to what it sees: regression of the log-mel.",
    )
    parser.add_argument("--config", default="demo", metavar="RECIPE", help="recipe with the model (default: demo)")
    parser.add_argument("--data", required=True, metavar="INDEX", help="clips of train.prepare --frames-only")
    parser.add_argument("--valid", required=True, metavar="INDEX", help="others, to measure with")
    parser.add_argument("--out", required=True, metavar="FILE", help="the tower's weights (safetensors)")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="(default: 1000)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="films a step (default: 16)")
    parser.add_argument("--window", type=int, default=64, metavar="N", help="frames of each (default: 64)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where to train (default: cpu)")
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="cores (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
