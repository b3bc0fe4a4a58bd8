"""Files that a job reads and writes, as its record knows them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from finalchar import provenance
from finalchar.errors import InputError
from finalchar.provenance import UNREADABLE, Inputs

__all__ = ["AGAIN", "InputFiles", "product_entries", "remove", "remove_halves", "renewed"]

AGAIN = "`finalchar run --set staleness.trust_stat=false` finds and makes again what is damaged"
"""Remedy for products whose bytes changed while size and time stamp did not: otherwise no run reads them."""


@dataclass
class InputFiles:
    """Input files of one piece of work: digests of the bytes that are there before and after reading."""

    inputs: Inputs
    entries: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def look(cls, inputs: Inputs) -> InputFiles:
        """Hash the files; absent ones get the entry of an absent file."""
        entries: dict[str, Any] = dict(inputs.upstream)
        for role, path in inputs.files.items():
            full = provenance.located(inputs.folder, path)
            if not os.path.exists(full):
                entries[role] = provenance.absent(path)
                continue
            before = os.stat(full)
            try:
                content = provenance.hash_file(full)
            except OSError:
                content = provenance.UNREADABLE
            entries[role] = [path, before.st_size, before.st_mtime_ns, content]
        return cls(inputs, entries)

    @property
    def missing(self) -> list[str]:
        """Paths of absent files."""
        return [self.entries[role][0] for role in self.inputs.files if self.entries[role][1] is None]

    @property
    def unreadable(self) -> list[str]:
        """Paths of files that cannot be read."""
        return [self.entries[role][0] for role in self.inputs.files if self.entries[role][3] == UNREADABLE]

    def check_unchanged(self) -> None:
        """Refuse what was read while a file was being replaced.

        Raises
        ------
        InputError
        """
        for role, path in self.inputs.files.items():
            full = provenance.located(self.inputs.folder, path)
            known = self.entries[role]
            status = os.stat(full) if os.path.exists(full) else None
            found = [status.st_size, status.st_mtime_ns] if status else [None, None]
            if found != known[1:3]:
                raise InputError(f"{full} changed while it was read: run again when it is complete")


def renewed_entries(folder: str, files: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of files that are sound, with today's paths and time stamps."""
    fresh = {}
    for role, path in files.items():
        if known[role][1] is None:
            fresh[role] = provenance.absent(path)
        else:
            status = os.stat(provenance.located(folder, path))
            fresh[role] = [path, status.st_size, status.st_mtime_ns, known[role][3]]
    return fresh


def renewed(record: Mapping[str, Any], inputs: Inputs, product_folder: str) -> dict[str, Any]:
    """Return a record that still holds, with today's paths and time stamps."""
    products = {name: item[0] for name, item in record["outputs"].items()}
    return {
        **record,
        "inputs": {**record["inputs"], **renewed_entries(inputs.folder, inputs.files, record["inputs"])},
        "outputs": renewed_entries(product_folder, products, record["outputs"]),
    }


def product_entries(folder: str, products: Mapping[str, str]) -> dict[str, Any]:
    """Return entries of the products that are there, by name."""
    return {
        name: provenance.entry(folder, file, provenance.hash_file(f"{folder}/{file}"))
        for name, file in products.items()
        if os.path.exists(f"{folder}/{file}")
    }


def remove(path: str) -> None:
    """Remove a file that something earlier left behind, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_halves(folder: str, names: Sequence[str]) -> None:
    """Remove what killed jobs left of products that they were writing: ``.<name>.<anything>``."""
    beginnings = tuple(f".{name}." for name in names)
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.startswith(beginnings):
            remove(f"{folder}/{name}")
