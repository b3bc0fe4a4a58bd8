"""Radial profiles as sums of circular Gaussians (measurement specification 8.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.errors import ConfigError

__all__ = ["PROFILES", "Profile", "profile_of"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """Gaussians of a profile, radius in units of the half-light radius.

    Attributes
    ----------
    fraction : ndarray, float64, shape (components,)
        Flux fractions, of sum one.
    variance : ndarray, float64, shape (components,)
    """

    fraction: FloatArray
    variance: FloatArray


def _profile(fraction: list[float], variance: list[float]) -> Profile:
    return Profile(np.array(fraction), np.array(variance))


PROFILES = {
    ("lux", 3): _profile(
        [0.03345911992000499, 0.318171946424796, 0.6483689336551989],
        [0.03757067270870865, 0.2772226369256338, 1.2483197636843673],
    ),
    ("lux", 6): _profile(
        [
            0.000199485456876638,
            0.0026161244489197252,
            0.01897269090157543,
            0.10018654117509906,
            0.3685343992987785,
            0.5094907587187506,
        ],
        [
            0.0012007879450750007,
            0.00884525395287227,
            0.03914632506077574,
            0.13997686821235952,
            0.46096246054949025,
            1.5015954880773934,
        ],
    ),
    ("luv", 8): _profile(
        [
            0.002018377817395426,
            0.011367886258145004,
            0.03247160650598376,
            0.07192874261669166,
            0.13427209625725284,
            0.2113624412268326,
            0.2709998771375122,
            0.26557897218018645,
        ],
        [
            0.00022375926294028074,
            0.0010022010934505137,
            0.004187309778633194,
            0.01694324010074813,
            0.06848490941884793,
            0.28720625345899653,
            1.3331981768264765,
            8.402130126564536,
        ],
    ),
}
"""Exponential (lux) and de Vaucouleurs (luv) profiles, truncated at 4 and 8 half-light radii, by name and
number of Gaussians."""


def profile_of(name: str, components: int) -> Profile:
    """Return a profile.

    Raises
    ------
    ConfigError
        If there is no such profile of that many Gaussians.
    """
    if (name, components) not in PROFILES:
        there_are = ", ".join(f"{known} of {number}" for known, number in PROFILES)
        raise ConfigError(
            f"measurement.plugins.modelfit_CModel: there is no profile {name!r} of {components} Gaussians;"
            f" set profileName and nComponents to one of: {there_are}"
        )
    return PROFILES[name, components]
