"""Where networks run, by name. Knows torch's devices and nothing of networks."""

from __future__ import annotations

import torch

from vta_rt.errors import OptionError


def open_device(name: str | None = None) -> torch.device:
    """The device of that name; None for a GPU if there is one, else the processor.

    Raises:
        OptionError: no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"device {name!r} cannot be used here; 'cpu', or 'cuda' where there is a GPU") from error
    return device
