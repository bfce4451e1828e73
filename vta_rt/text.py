"""Prompts to token ids, by the ``tokenizers`` library and a tokenizer.json of CLIP's kind. Knows no model and no bundle.

The library is an extra (``pip install "vta-rt[text]"``) and is imported only where a prompt is given.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from vta_rt.config import TextConfig
from vta_rt.errors import OptionError, PromptWarning, VTAError

TOKENIZER = "tokenizer.json"


class PromptTokenizer:
    """Makes token ids of prompts; the last is always the vocabulary's last, the place where CLIP reads its vector.

    Args:
        path: the file. text: what the model takes.

    Raises:
        OptionError: the file is not there, is no tokenizer, or not one for this model.
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
        """Ids [L] int64, L at most the model's context. The end of a longer prompt is left out, as CLIP does.

        Args:
            warn: say so, by a ``PromptWarning``.

        Raises:
            OptionError: the prompt is empty, or no text.
        """
        if not isinstance(prompt, str):
            raise OptionError(f"prompt is {prompt!r}, a text is needed")
        if not prompt.strip():
            raise OptionError("prompt is empty; say what is to be heard, or give no prompt")
        ids = self._tokenizer.encode(prompt).ids
        ids = ids[: ids.index(self._end)]  # a prompt that spells the end is read there
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
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise OptionError(f"{path}: is no tokenizer.json ({' '.join(str(error).split())[:200]})") from error
