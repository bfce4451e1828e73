#!/usr/bin/env python3
"""Made-up weights for the video encoders of the variants, in the layout of the public checkpoints.

    python synth_encoders.py imagebind tiny OUT_DIR              # imagebind_huge.pth
    python synth_encoders.py languagebind tiny OUT_DIR           # LanguageBind_Video_FT/{config.json,pytorch_model.bin}
    python synth_encoders.py cavp tiny OUT_DIR                   # cavp_epoch66.ckpt
    python synth_encoders.py vivit tiny OUT_DIR                  # vivit-b-16x2-kinetics400/{config.json,pytorch_model.bin}
    python synth_encoders.py vjepa2 tiny OUT_DIR --salt x        # vjepa2-vitl-fpc64-256/{config.json,model.safetensors}

From Python: `state_dict("imagebind", "tiny")`, `config("vivit", "tiny")`, `enlarge(frames_u8_low, size)`.

Values come from `synth_tensor` of `../synth_checkpoint.py`, a function of (salt, name, shape). Three kinds of buffer would be unusable
that way (a variance must be positive, a counter is a scalar), so they have a rule of their own, `synth_buffer`.

goldens/*.npz were computed with the public reference implementations on `tiny` with the default salt; of ImageBind's `trunk`
and LanguageBind's `last_hidden_state` they hold every 16th token.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from synth_checkpoint import DEFAULT_SALT, synth_tensor  # noqa: E402

ENCODERS = ("imagebind", "languagebind", "cavp", "vivit", "vjepa2")

# A few tensors, with their real names and shapes, of parts that the public file also holds and a video loader must skip.
OTHER_PARTS = {
    "imagebind": {"modality_preprocessors.text.pos_embed": [1, 77, 1024], "modality_preprocessors.audio.cls_token": [1, 1, 768],
                  "modality_trunks.audio.blocks.0.attn.bias_k": [1, 1, 768], "modality_heads.imu.3.weight": [1024, 512],
                  "modality_postprocessors.text.1.log_logit_scale": []},
    "languagebind": {"logit_scale": [], "text_projection.weight": [768, 768], "text_model.final_layer_norm.weight": [768]},
    "cavp": {"logit_scale": [], "spec_encoder.bn.weight": [128], "spec_encoder.final_project.bias": [512]},
    "vivit": {"classifier.weight": [400, 768], "classifier.bias": [400]},
    "vjepa2": {"predictor.layer.11.norm1.weight": [384]},
}


def synth_buffer(name: str, shape: list[int], salt: str) -> torch.Tensor | None:
    """Batch-norm statistics: mean ~ N(0, 0.1^2); variance log-normal around 1; counter 0. None for anything else."""
    if name.endswith(".running_mean"):
        return 5 * synth_tensor(name, shape, "float32", salt)
    if name.endswith(".running_var"):
        return torch.exp(10 * synth_tensor(name, shape, "float32", salt))
    if name.endswith(".num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    return None


def table(encoder: str, size: str) -> dict[str, list]:
    """Tensor name -> [shape, dtype] of the checkpoint's video part."""
    return json.loads((HERE / f"{encoder}_{size}.json").read_text())


def config(encoder: str, size: str) -> dict:
    return json.loads((HERE / "configs.json").read_text())[encoder][size]


def state_dict(encoder: str, size: str, salt: str = DEFAULT_SALT) -> dict[str, torch.Tensor]:
    out = {}
    for name, (shape, dtype) in table(encoder, size).items():
        buffer = synth_buffer(name, shape, salt)
        out[name] = synth_tensor(name, shape, dtype, salt) if buffer is None else buffer
    return out


def enlarge(low: np.ndarray, size: int) -> np.ndarray:
    """[..., h, w] -> [..., size, size], each pixel repeated size/h times along both axes."""
    low = np.repeat(low, size // low.shape[-2], axis=-2)
    return np.repeat(low, size // low.shape[-1], axis=-1)


def write(encoder: str, size: str, out: Path, salt: str = DEFAULT_SALT) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    tensors = state_dict(encoder, size, salt)
    tensors.update({name: torch.zeros(shape) for name, shape in OTHER_PARTS[encoder].items()})
    folders = {"languagebind": "LanguageBind_Video_FT", "vivit": "vivit-b-16x2-kinetics400", "vjepa2": "vjepa2-vitl-fpc64-256"}
    if encoder in folders:
        out = out / folders[encoder]
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text(json.dumps(config(encoder, size), indent=2) + "\n")
    if encoder == "imagebind":
        path = out / "imagebind_huge.pth"
        torch.save(tensors, path)
    elif encoder == "cavp":
        path = out / "cavp_epoch66.ckpt"
        torch.save({"epoch": 66, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}, path)
    elif encoder == "vjepa2":
        from safetensors.torch import save_file
        path = out / "model.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        path = out / "pytorch_model.bin"
        torch.save(tensors, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("encoder", choices=ENCODERS)
    parser.add_argument("size", choices=["tiny"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--salt", default=DEFAULT_SALT)
    args = parser.parse_args()
    print(f"wrote {write(args.encoder, args.size, args.out, args.salt)}")


if __name__ == "__main__":
    main()
