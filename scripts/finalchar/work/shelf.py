"""Finished products of detectors whose input files are absent: kept aside until the files are back.

A part of an archive that is not mounted for an hour must not cost the work of a month.  Meanwhile the
detector has the status ``input_missing`` and its visit says so; nothing else reads what is on the shelf.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from finalchar import plan
from finalchar.layout import Layout
from finalchar.work.files import remove

__all__ = ["Shelf", "finished"]


def finished(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the record of finished products that a detector's record stands for or keeps aside."""
    if record is None:
        return None
    if record["status"]["status"] in plan.ERROR_STATUSES:
        return record.get("aside")
    return {name: value for name, value in record.items() if name != "aside"}


class Shelf:
    """The products of a visit's detectors, in their folder or kept aside."""

    def __init__(self, layout: Layout, visit: int) -> None:
        self.folder = layout.detector_folder(visit)
        self.aside = layout.aside_folder(visit)

    def put(self, names: Sequence[str]) -> None:
        """Put products aside; what is aside already stays there."""
        os.makedirs(self.aside, exist_ok=True)
        for name in names:
            with suppress(FileNotFoundError):
                os.replace(f"{self.folder}/{name}", f"{self.aside}/{name}")

    def bring_back(self, names: Sequence[str]) -> None:
        """Bring products back to their folder; what is there already stays there."""
        os.makedirs(self.folder, exist_ok=True)
        for name in names:
            with suppress(FileNotFoundError):
                os.replace(f"{self.aside}/{name}", f"{self.folder}/{name}")

    def clear(self, names: Sequence[str]) -> None:
        """Forget what was put aside."""
        for name in names:
            remove(f"{self.aside}/{name}")
