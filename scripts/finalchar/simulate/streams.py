"""Named random streams: every quantity of a survey draws from its own, so that none disturbs another."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["stream"]


def stream(seed: int, *names: object) -> np.random.Generator:
    """Return the generator of the stream `names` of the survey seeded with `seed`."""
    text = "/".join(str(part) for part in (seed, *names))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.PCG64(number))
