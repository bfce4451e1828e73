"""A tokenizer as small as can be, and a micro checkpoint whose model takes prompts."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

WORDS = ("a", "bell", "drum")
BEGIN, END = 8, 9
VOCABULARY, CONTEXT = END + 1, 6


def save_tokenizer(path: Path, begin: int = BEGIN, end: int = END) -> Path:
    """Words by their place in ``WORDS``, from 1 on; a prompt begins with ``begin`` and ends with ``end``, as CLIP's do."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing

    special = {"<s>": begin, "</s>": end}
    words = {word: index for index, word in enumerate(WORDS, 1)}
    tokenizer = Tokenizer(WordLevel({"?": 0, **words, **special}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=list(special.items()))
    tokenizer.save(str(path))
    return path


def with_text(checkpoint: Path, out: Path) -> Path:
    """The micro checkpoint with a text encoder, and its tokenizer beside it."""
    import torch
    from safetensors.torch import load_file, save_file

    from train.models.config import TextEncoderConfig, from_dict, to_dict
    from train.models.encoder import build_text_encoder

    shutil.copytree(checkpoint, out, copy_function=os.link)
    config = from_dict(json.loads((out / "config.json").read_text()))
    text = TextEncoderConfig(32, 2, 2, 64, config.encoder.projection, VOCABULARY, CONTEXT)
    torch.manual_seed(1)
    tensors = {
        f"vid_fea_extractor.clip_text.{name}": value for name, value in build_text_encoder(text).state_dict().items()
    }
    weights = load_file(out / "model_2.safetensors") | tensors
    for name in ("model_2.safetensors", "config.json"):
        (out / name).unlink()  # it is a link
    save_file(weights, out / "model_2.safetensors")
    (out / "config.json").write_text(json.dumps(to_dict(replace(config, text=text))))
    save_tokenizer(out / "tokenizer.json")
    return out
