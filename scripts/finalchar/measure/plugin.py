"""What a measurement plugin is.

A plugin is one module of `finalchar.measure.plugins` that defines ``NAME`` (the name in the configuration),
``ORDER`` (execution order), ``Settings`` and a class ``Plugin``; see ``docs/measurement_plugins.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field as SettingsField
from finalchar.config_base import Section
from finalchar.errors import FinalcharError
from finalchar.formats.sources import SourceTable

if TYPE_CHECKING:
    from finalchar.measure.context import MeasurementContext

__all__ = [
    "BatchPlugin",
    "Field",
    "InvalidPsfError",
    "MeasurementPlugin",
    "PerStarPlugin",
    "PluginSettings",
    "StarError",
    "default_column",
    "flag",
]

INVALID_PSF_FLAG = "base_InvalidPsf_flag"

logger = logging.getLogger(__name__)


class StarError(FinalcharError):
    """One star cannot be measured; `flag` names the flag that says why (beside the general one)."""

    def __init__(self, sentence: str, flag: str | None = None) -> None:
        super().__init__(sentence)
        self.flag = flag


class InvalidPsfError(FinalcharError):
    """The PSF cannot be drawn at this star."""


class PluginSettings(Section):
    """Settings every plugin has."""

    doMeasure: bool = SettingsField(default=True, description="run the plugin; its columns exist in any case")


@dataclass(frozen=True)
class Field:
    """A column a plugin writes: full name, numpy dtype, unit (astropy spelling) and a sentence."""

    name: str
    dtype: str
    unit: str
    description: str


def flag(name: str, description: str) -> Field:
    """Return a flag column."""
    return Field(name, "bool", "", description)


def default_column(dtype: str, length: int) -> npt.NDArray[Any]:
    """Return a column with nothing measured: NaN, 0, False or empty text."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.full(length, np.nan, dtype=kind)
    return np.zeros(length, dtype=kind)


S = TypeVar("S", bound=PluginSettings)


class MeasurementPlugin(Generic[S]):
    """Base of all plugins: what it writes, and how.

    Parameters
    ----------
    name : str
        Name of the plugin; its general flag is ``<name>_flag``.
    settings : PluginSettings
        The plugin's own section.
    """

    def __init__(self, name: str, settings: S) -> None:
        self.name = name
        self.settings = settings

    def fields(self) -> list[Field]:
        """Return the columns the plugin writes, in schema order."""
        raise NotImplementedError

    def fluxes(self) -> list[str]:
        """Return the names of fluxes (without ``_instFlux``) that want an aperture correction."""
        return []

    def aliases(self, *, centroid: str, shape: str) -> Mapping[str, str]:
        """Return the aliases the plugin registers, given the targets of the centroid and shape slots."""
        return {}

    def measure(self, context: MeasurementContext, table: SourceTable) -> None:
        """Measure all stars of `table` and write the plugin's columns."""
        raise NotImplementedError

    def column(self, table: SourceTable, suffix: str) -> npt.NDArray[Any]:
        """Return the column ``<name>_<suffix>`` of the table, to be written into."""
        return table.columns[f"{self.name}_{suffix}"]

    def flag_bad_centroids(self, context: MeasurementContext, table: SourceTable) -> None:
        """Set the general flag of stars whose centroid is flagged (1.2)."""
        self.column(table, "flag")[context.centroid_flag] = True

    @contextmanager
    def failures(self, table: SourceTable, star: int) -> Iterator[None]:
        """Turn an error into flags of one star (1.1); values written before stay.

        Errors of memory and those meant for the user concern the whole detector and pass through.
        """
        try:
            yield
        except StarError as error:
            self._set_flag(table, star, "flag")
            if error.flag is not None:
                self._set_flag(table, star, error.flag)
        except InvalidPsfError:
            table.columns[INVALID_PSF_FLAG][star] = True
            self._set_flag(table, star, "flag")
        except (MemoryError, FinalcharError):
            raise
        except Exception as error:
            logger.debug("%s of row %d failed: %s", self.name, star, error)
            self._set_flag(table, star, "flag")

    def _set_flag(self, table: SourceTable, star: int, suffix: str) -> None:
        table.columns[f"{self.name}_{suffix}"][star] = True


class PerStarPlugin(MeasurementPlugin[S]):
    """A plugin that measures star after star."""

    def measure(self, context: MeasurementContext, table: SourceTable) -> None:
        """Measure each star by `measure_star`; an error of one star concerns only that star."""
        for star in range(len(table)):
            with self.failures(table, star):
                self.measure_star(context, table, star)

    def measure_star(self, context: MeasurementContext, table: SourceTable, star: int) -> None:
        """Measure row `star` of the table."""
        raise NotImplementedError


class CentroidFlagPlugin(PerStarPlugin[S]):
    """A plugin that measures star after star and takes over the flag of the centroid (1.2)."""

    def aliases(self, *, centroid: str, shape: str) -> Mapping[str, str]:
        """Return the alias of the centroid's flag."""
        return {f"{self.name}_flag_badCentroid": f"{centroid}_flag"}

    def measure(self, context: MeasurementContext, table: SourceTable) -> None:
        """Flag the stars whose centroid is flagged, and measure each star."""
        self.flag_bad_centroids(context, table)
        super().measure(context, table)


class BatchPlugin(MeasurementPlugin[S]):
    """A plugin that measures many stars at once."""

    def measure(self, context: MeasurementContext, table: SourceTable) -> None:
        """Measure all stars together; after an unexpected error one by one, so that it costs one star."""
        stars = np.arange(len(table))
        try:
            self.measure_batch(context, table, stars)
            return
        except (MemoryError, FinalcharError):
            raise
        except Exception as error:
            logger.warning("%s measures star by star, because all together failed: %s", self.name, error)
        for star in range(len(table)):
            with self.failures(table, star):
                self.measure_batch(context, table, stars[star : star + 1])

    def measure_batch(
        self, context: MeasurementContext, table: SourceTable, stars: npt.NDArray[np.int64]
    ) -> None:
        """Measure the given rows of the table; what failed for one star is flagged, not raised."""
        raise NotImplementedError
