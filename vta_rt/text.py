"""Prompts to token ids, with the ``tokenizers`` library and a tokenizer.json of CLIP's kind.

The library is an extra (``pip install "vta-rt[text]"``) and is imported only if there is a prompt.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from vta_rt.config import TextConfig
from vta_rt.errors import OptionError, PromptWarning, VTAError

TOKENIZER = "tokenizer.json"
MAX_TOKENIZER_BYTES = 64 << 20  # CLIP's has 2 MB


class PromptTokenizer:
    """Turns a prompt into token ids, which end with the vocabulary's last id: there CLIP reads the prompt's vector.

    Args:
        path: of tokenizer.json.
        text: the ids that the model takes.

    Raises:
        OptionError: the file is missing, is no tokenizer, or not one for this model.
        VTAError: the library is not installed.
    """

    def __init__(self, path: Path, text: TextConfig) -> None:
        self._tokenizer = _open(path)
        self._context, self._end = text.context, text.vocabulary - 1
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        highest = max(self._tokenizer.get_vocab().values(), default=0)
        if highest > self._end or self._tokenizer.encode("").ids[-1:] != [self._end]:
            raise OptionError(
                f"{path}: is not CLIP's tokenizer.json: prompts must end with token {self._end}, the last of them"
            )

    def __call__(self, prompt: str, *, warn: bool = True) -> np.ndarray:
        """Ids ``[L]`` int64, L at most the model's context. A longer prompt is cut off, as for CLIP.

        Args:
            warn: give a ``PromptWarning`` about a prompt that is cut off.

        Raises:
            OptionError: the prompt is empty or no string.
        """
        if not isinstance(prompt, str):
            raise OptionError(f"prompt is {prompt!r}, a text is needed")
        if not prompt.strip():
            raise OptionError("prompt is empty; describe the sound, or give no prompt")
        ids = self._tokenizer.encode(prompt).ids
        ids = ids[: ids.index(self._end)]  # a prompt that spells out the end token ends there
        if warn and len(ids) >= self._context:
            shown = prompt if len(prompt) <= 40 else f"{prompt[:40]}…"
            message = f"prompt {shown!r} is {len(ids) + 1} tokens long; the model reads the first {self._context}"
            warnings.warn(message, PromptWarning, stacklevel=2)
        return np.array([*ids[: self._context - 1], self._end], np.int64)


def _open(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise VTAError('tokenizers is not installed; prompts need: pip install "vta-rt[text]"') from error
    if not path.is_file():
        raise OptionError(f"{path}: is not there; the tokenizer.json of CLIP is needed")
    if (size := path.stat().st_size) > MAX_TOKENIZER_BYTES:
        raise OptionError(f"{path}: has {size} bytes, at most {MAX_TOKENIZER_BYTES} are read")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise OptionError(f"{path}: is no tokenizer.json ({' '.join(str(error).split())[:200]})") from error
