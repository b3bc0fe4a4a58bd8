"""The kind of the input files, and presets: settings of an instrument or kind of input in one small file.

A preset is a configuration file; what it says stands in for the defaults, and the user's own settings stand
above it, section by section.  The settings ``input.*`` are for surveys without the LSST stack: plain images
and a SExtractor catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from finalchar import config_text, strict_yaml
from finalchar.config_base import Field, Section, subsection
from finalchar.config_text import section_in
from finalchar.errors import ConfigError, nearest

__all__ = ["PRESETS", "Input", "preset_names", "with_preset"]

PRESETS = Path(__file__).resolve().parents[2] / "workflow" / "presets"
_NAME = re.compile(r"\w+\Z")
_FLAG_TEST = re.compile(r"\w+ & [0-9]+\Z", re.ASCII)


class Images(Section):
    """Image, weight and flag image."""

    weight_kind: Literal["inverse_variance", "variance", "standard_deviation"] | None = Field(
        None, description="what the weight image holds, in counts; must be stated, nothing is guessed"
    )
    flag_kind: Literal["bits", "values"] = Field(
        "bits", description="bits: a pixel of the flag image is a sum of flags; values: it is one code"
    )
    flags: dict[str, list[int]] = Field(
        default_factory=dict,
        description="mask plane: bit numbers (or codes) of the flag image that set it; others are ignored",
    )
    offset: float = Field(0.0, description="number that was added to every pixel of the image, in counts")
    saturation: float | None = Field(
        None, gt=0, description="pixels of at least so many counts, sky included, get the mask plane SAT"
    )
    gain: float | None = Field(None, gt=0, description="electrons per count")
    photon_noise: Literal["included", "add"] = Field(
        "included", description="add: the weight image is of sky and read noise only, image/gain is added"
    )
    zero_point: float | None = Field(
        None, ge=-100, le=100, description="AB magnitude of one count; some plugins need it"
    )
    background: Literal["subtracted", "subtract"] = Field(
        "subtracted", description="whether the background was subtracted, or is to be (by sep)"
    )
    background_box: int = Field(128, ge=8, description="size of its mesh, in pixels")
    background_filter: int = Field(3, ge=1, description="size of its median filter, in meshes")


class Catalogue(Section):
    """Columns of the source catalogue, and how they are to be read."""

    hdu: int | None = Field(
        None, ge=1, description="HDU of the table; null: LDAC_OBJECTS if there is one, otherwise the first"
    )
    first_pixel: Literal[0, 1] = Field(1, description="position of the centre of the first pixel")
    id: str | None = Field(None, description="column of the number of the source, a whole number")
    id_rule: Literal["visit_detector_number", "as_given"] = Field(
        "visit_detector_number",
        description="id of a source: visit * 10**9 + detector * 10**6 + number, or the number itself",
    )
    x: str | None = Field(None, description="column of the x position, in pixels")
    y: str | None = Field(None, description="column of the y position, in pixels")
    error_ellipse: list[str] = Field(
        default_factory=list,
        description="columns of the 1-sigma error ellipse of the position: semi-axes in pixels, angle in "
        "degrees from x; empty: not known",
    )
    ra: str | None = Field(
        None, description="column of the right ascension, in degrees; null: from the astrometry of the image"
    )
    dec: str | None = Field(None, description="column of the declination, in degrees; null: likewise")
    flux: str | None = Field(None, description="column of a flux of stars, in counts, for the selection")
    flux_err: str | None = Field(None, description="column of its error")
    shape: list[str] = Field(
        default_factory=list, description="columns of the second moments xx, yy, xy in pixels; empty: none"
    )
    flags: dict[str, str] = Field(
        default_factory=dict,
        description="flag column: where it is set, such as catalogue_flag_blended: FLAGS & 3",
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="further columns: name here: name in the catalogue"
    )
    flag_radius: float = Field(
        5.0, ge=1, le=100, description="radius around a source within which masked pixels flag it, pixels"
    )
    largest_offset: float = Field(
        0.3, gt=0, description="median offset of positions from the light that is tolerated, pixels"
    )

    def check_together(self) -> None:
        """Refuse lists of another length, tests of flags that are none, and half of a pair of columns."""
        for name in ("error_ellipse", "shape"):
            if len(getattr(self, name)) not in (0, 3):
                raise ValueError(f"{name} must name three columns, or none.")
        for name, test in self.flags.items():
            if not _FLAG_TEST.match(test):
                raise ValueError(f"flags.{name} must read like 'FLAGS & 3', not {test!r}.")
        for one, other in (("ra", "dec"), ("flux", "flux_err")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"{one} and {other} must be named together.")


class Input(Section):
    """Kind of the input files."""

    preset: str = Field(
        "lsst", description="preset in workflow/presets, or the path of such a file (*.yaml); lsst: none"
    )
    kind: Literal["lsst", "images"] = Field(
        "lsst", description="lsst: files of the LSST stack; images: plain images and a SExtractor catalogue"
    )
    images: Images = subsection(Images, "plain images: meaning of the planes")
    catalogue: Catalogue = subsection(Catalogue, "catalogue of sources: meaning of the columns")

    def check_together(self) -> None:
        """Demand what plain images cannot be read without."""
        if self.kind == "lsst":
            return
        if self.images.weight_kind is None:
            raise ValueError(
                "images.weight_kind must say what the weight image holds: inverse_variance, variance or "
                "standard_deviation."
            )
        for name in ("id", "x", "y", "flux"):
            if getattr(self.catalogue, name) is None:
                raise ValueError(f"catalogue.{name} must name a column; the preset sextractor does.")


def preset_names() -> list[str]:
    """Names of the presets that come with finalchar, sorted."""
    return sorted({"lsst", *(path.stem for path in PRESETS.glob("*.yaml"))})


def with_preset(root: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values of a configuration with those of its preset beneath them.

    Parameters
    ----------
    root : type
        The root model.
    values : mapping
        Nested plain values; ``input.preset`` names the preset.

    Raises
    ------
    ConfigError
        If there is no such preset, or it is not a configuration.
    """
    if values.keys() >= root.model_fields.keys() and _is_complete(Input, values["input"]):
        return dict(values)  # of a configuration that had its preset, whatever the file says by now
    plain, seen = dict(values), {"lsst"}
    name = _preset_of(values)
    while isinstance(name, str) and name not in seen:
        seen.add(name)
        below = config_text.interpret(root, strict_yaml.load_file(_file_of(name)))
        name = _preset_of(below)
        plain = _merged(root, below, plain)
    return plain


def _is_complete(section: type[Section], values: Any) -> bool:
    """Whether plain values say everything of a section."""
    fields = section.model_fields
    return (
        isinstance(values, Mapping)
        and values.keys() >= fields.keys()
        and all(
            _is_complete(below, values[name])
            for name in fields
            if (below := section_in(fields[name].annotation)) is not None
        )
    )


def _preset_of(values: Mapping[str, Any]) -> Any:
    section = values.get("input")
    return section.get("preset") if isinstance(section, Mapping) else getattr(section, "preset", None)


def _file_of(name: str) -> Path:
    if name.endswith(".yaml"):
        return Path(name)
    path = PRESETS / f"{name}.yaml"
    if _NAME.match(name) and path.is_file():
        return path
    known = preset_names()
    close = nearest(name, known)
    remedy = f"did you mean '{close}'?" if close else f"there are {', '.join(known)}, or the path of a file."
    raise ConfigError(
        f"Configuration key 'input.preset' must name a preset, not {name!r}; {remedy}", ("input", "preset")
    )


def _merged(model: type[Section], below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values of two configurations, section by section; lists and dictionaries of settings are not mixed."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        field = model.model_fields.get(key)
        section = section_in(field.annotation) if field else None
        if section is not None and isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = _merged(section, below[key], above[key])
    return merged
