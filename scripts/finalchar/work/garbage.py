"""When Python looks for garbage: rarely while libraries are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["rare_collection"]


@contextmanager
def rare_collection() -> Iterator[None]:
    """Look for garbage rarely within a block that imports libraries, and never again at what they made.

    Importing makes a million objects that stay; looking through them again and again costs 0.3 CPU s.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.freeze()
