"""A path or a model-hub id: one function turns either into a local folder or file.

huggingface_hub is an extra (``pip install "vta-rt[hub]"``) and is imported only when an id is given.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from vta_rt.errors import VTAError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(name: str | os.PathLike[str], error: type[VTAError], patterns: list[str]) -> Path:
    """The local path of ``name``: itself where it exists, else the hub repository's files that match ``patterns``.

    Hub files already in the local cache are used when the hub cannot be reached (or ``HF_HUB_OFFLINE=1``).

    Raises:
        error: neither a path that exists nor a hub id whose files can be had.
    """
    path = os.path.expanduser(name)
    if os.path.exists(path):  # unlike Path.exists, False for what may not be looked at
        return Path(path)
    if not _HUB_ID.fullmatch(str(name)):
        raise error(f"{name}: no such file or folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise error(
            f'{name}: no such folder; to fetch it as a model-hub id, pip install "vta-rt[hub]"',
        ) from None
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns))
    except Exception as problem:  # the hub's client raises many kinds, all meaning: not to be had
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise error(f"{name}: no such folder, and not to be had from the model hub ({reason})") from problem
