"""Detector geometry: amplifiers, gains, and the tree of camera transforms (file-format specification 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finalchar.errors import InputError
from finalchar.formats.ast_text import AstTransform, TransformChain
from finalchar.formats.bounded_fields import read_box
from finalchar.formats.exposure import ARCSEC_PER_RADIAN, Box

if TYPE_CHECKING:
    from finalchar.formats.afw_table import AfwTable
    from finalchar.formats.archive import Archive

__all__ = ["Amplifier", "Connection", "Detector", "TransformMap"]

System = tuple[str, str]


@dataclass(frozen=True)
class Amplifier:
    """One amplifier: its box in the assembled image and its gain (electrons per count)."""

    name: str
    box: Box
    gain: float
    read_noise: float


@dataclass(frozen=True)
class Connection:
    """A transform from one (system, detector name) to another."""

    start: System
    end: System
    transform: AstTransform


@dataclass(frozen=True)
class TransformMap:
    """Tree of transforms between camera systems."""

    connections: tuple[Connection, ...]

    def path(self, start: System, end: System) -> tuple[AstTransform, ...] | None:
        """Return the transforms from `start` to `end`, None if they are not connected."""
        paths: dict[System, tuple[AstTransform, ...]] = {start: ()}
        pending = [start]
        while pending:
            here = pending.pop()
            for connection in self.connections:
                for a, b, step in (
                    (connection.start, connection.end, connection.transform),
                    (connection.end, connection.start, connection.transform.inverse()),
                ):
                    if a == here and b not in paths:
                        paths[b] = (*paths[here], step)
                        pending.append(b)
        return paths.get(end)


@dataclass(frozen=True)
class Detector:
    """A detector of a camera."""

    name: str
    serial: str
    number: int
    box: Box
    amplifiers: tuple[Amplifier, ...]
    transforms: TransformMap

    @property
    def mean_gain(self) -> float | None:
        """Mean gain of the amplifiers, electrons per count; None without amplifiers."""
        gains = [amplifier.gain for amplifier in self.amplifiers]
        return float(np.mean(gains)) if gains else None

    @property
    def field_angle(self) -> TransformChain | None:
        """Pixels to field angle in arcsec; None for a detector without its camera."""
        steps = self.transforms.path(("Pixels", self.name), ("FieldAngle", ""))
        return None if steps is None else TransformChain(steps, ARCSEC_PER_RADIAN)

    @property
    def focal_plane(self) -> TransformChain | None:
        """Pixels to focal plane in mm."""
        steps = self.transforms.path(("Pixels", self.name), ("FocalPlane", ""))
        return None if steps is None else TransformChain(steps)


def read_transform_map(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> TransformMap:
    """Make a `TransformMap` from its archive rows."""
    table = catalogues[0]
    if "fromSysName" not in table:
        raise InputError("a stored TransformMap has the layout before 2019; convert it with the LSST stack")
    connections = []
    for row in range(len(table)):
        start = (str(table["fromSysName"][row]), str(table["fromSysDetectorName"][row]))
        end = (str(table["toSysName"][row]), str(table["toSysDetectorName"][row]))
        transform = archive.get(int(table["transform"][row]))
        if isinstance(transform, AstTransform):
            connections.append(Connection(start, end, transform))
    return TransformMap(tuple(connections))


def read_detector(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> Detector:
    """Make a `Detector` from its two catalogues."""
    main, amplifiers = catalogues
    transforms = archive.get(int(main.one("transformMap")))
    return Detector(
        name=str(main.one("name")),
        serial=str(main.one("serial")),
        number=int(main.one("id")),
        box=read_box(main),
        amplifiers=tuple(_amplifier(amplifiers.rows(row, 1)) for row in range(len(amplifiers))),
        transforms=transforms if isinstance(transforms, TransformMap) else TransformMap(()),
    )


def _amplifier(row: AfwTable) -> Amplifier:
    x, y = int(row.one("bbox_min_x")), int(row.one("bbox_min_y"))
    box = Box(x, y, x + int(row.one("bbox_extent_x")) - 1, y + int(row.one("bbox_extent_y")) - 1)
    return Amplifier(str(row.one("name")), box, float(row.one("gain")), float(row.one("readnoise")))
