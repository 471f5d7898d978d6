"""Where tensors are put when they are done."""

from __future__ import annotations

import torch

from tvcodec.errors import TvqError

Device = torch.device | str


def available(device: Device) -> torch.device:
    """The device of that name. TvqError where there is no such kind, this build of torch has no
    support for it, or it keeps no values."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0].partition(". ")[0]
        raise TvqError(
            f"device {str(device)!r}: expected one that torch can use here, got: {first:.200}",
            hint="leave it out for the CPU, or install the build of torch for it",
        ) from None
    if found.type == "meta":
        raise TvqError(
            "device 'meta': expected one that keeps values, got one for shapes only",
            hint="model.shape(name) gives a shape without decoding anything",
        )
    return found
