"""The iteration of a PCA fit: eigen-images, spatial fit, rejection (selection specification 8.6)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import PsfError
from finalchar.formats.exposure import Box
from finalchar.psf.clipping import clipped_mean_and_variance
from finalchar.psf.pca_eigen import eigen_images, kernel_components
from finalchar.psf.pca_spatial import SpatialModel, chi2_of_stars, component_residuals, fit_linear
from finalchar.psf.pca_stamps import PcaStars

__all__ = ["MaskBits", "PcaFit", "fit_pca"]

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

NOT_MEASURED = float(np.finfo(np.float64).max)
"""Chi-square of a star that was never compared with a model."""
ROUNDING_OF_CHI2 = 1e-6
"""So much less than zero the chi-square of a perfect star may be."""
SMALLEST_DEVIATION = 1e-4
"""Least standard deviation of a component among stars."""


@dataclass(frozen=True)
class MaskBits:
    """Pixels that are replaced in the eigen-analysis, and those left out of chi-squares."""

    replaced: np.int32
    left_out: np.int32


@dataclass(frozen=True)
class PcaFit:
    """What the iteration ended with.

    Attributes
    ----------
    model : SpatialModel
    stars : PcaStars
        Those left in their cells.
    rejected : ndarray of bool, shape (n,)
        Of these, the ones that are bad.
    fitted : ndarray of int64
        Rows of those that the polynomials were fitted to.
    chi2 : ndarray of float64, shape (n,)
        Reduced, of all stars left.
    analysed : int
        Stars whose stamps were analysed.
    removed : int
        Stars taken out of their cells because their chi-square is no positive number.
    """

    model: SpatialModel
    stars: PcaStars
    rejected: BoolArray
    fitted: IntArray
    chi2: FloatArray
    analysed: int
    removed: int


def fit_pca(
    stars: PcaStars, box: Box, settings: Any, *, bits: MaskBits, stamp_border: int, compatibility: str
) -> PcaFit:
    """Fit, reject what does not fit, and fit again.

    Parameters
    ----------
    stars : PcaStars
    box : Box
        Of the exposure.
    settings : object
        Section `psf_determiner.pca`.
    bits : MaskBits
    stamp_border : int
        Border of the candidates' stamps (``make_psf_candidates.borderWidth``), pixels.
    compatibility : str

    Raises
    ------
    PsfError
        If no star is left, or the numbers do not allow a fit.
    """
    work = _Iteration(stars, box, settings, bits, stamp_border, compatibility)
    try:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # chi-squares tell
            for iteration in range(settings.nIterForPsf):
                fit = work.fit_until_all_have_chi2()
                work.reject(iteration, fit.model)
            return work.fit()
    except np.linalg.LinAlgError as error:
        raise PsfError(f"The principal components of the stars cannot be computed: {error}") from error


class _Iteration:
    """The state of a fit: which stars are left, and which of them are bad."""

    def __init__(
        self,
        stars: PcaStars,
        box: Box,
        settings: Any,
        bits: MaskBits,
        stamp_border: int,
        compatibility: str,
    ) -> None:
        self.stars, self.box, self.settings, self.bits = stars, box, settings, bits
        self.stamp_border, self.compatibility = stamp_border, compatibility
        self.components: int = settings.nEigenComponents
        self.bad = np.zeros(len(stars), dtype=bool)
        self.chi2 = np.full(len(stars), NOT_MEASURED)
        self.removed = 0

    def fit_until_all_have_chi2(self) -> PcaFit:
        """Fit, and remove the stars without a positive chi-square, until there is none (item 1)."""
        lowest = 0.0 if self.compatibility == "lsst" else -ROUNDING_OF_CHI2
        while True:
            fit = self.fit()
            self.bad[:] = False
            keep = np.isfinite(self.chi2) & (self.chi2 > lowest)
            if keep.all():
                return fit
            self.removed += int((~keep).sum())
            self.stars = self.stars.select(keep)
            self.bad, self.chi2 = self.bad[keep], self.chi2[keep]

    def fit(self) -> PcaFit:
        """Find the components, fit their polynomials, compare all stars with the model."""
        settings, stars = self.settings, self.stars
        analysed = stars.first_of_cells(settings.nStarPerCell, ~self.bad)
        shown = stars.select(analysed[stars.has_centred[analysed] & (stars.flux[analysed] != 0)])
        self._lower_number_of_components(len(shown))
        eigen = eigen_images(
            shown,
            bad_bits=self.bits.replaced,
            number=self.components,
            constant_weight=settings.constantWeight,
            border=0 if self.compatibility == "lsst" else settings.borderWidth,
        )
        images = eigen.images if self.compatibility == "lsst" else eigen.significant()
        if not len(images):
            raise PsfError(f"The stamps of {len(shown)} stars have no light in common.")
        components = kernel_components(images)
        entering = stars.first_of_cells(settings.nStarPerCellSpatialFit, ~self.bad)
        entering = entering[stars.has_stamp[entering]]
        model = self._fit_spatially(components, stars.select(entering))
        self._compare(model)
        return PcaFit(model, stars, self.bad.copy(), entering, self.chi2.copy(), len(shown), self.removed)

    def _lower_number_of_components(self, stars: int) -> None:
        """There are no more components than stars; what is lowered stays so (8.3 item 1)."""
        if stars == 0:
            raise PsfError(
                f"No star is left for the principal components: {int(self.bad.sum())} of {len(self.stars)} "
                f"were rejected, and {self.removed} had no positive chi-square."
            )
        if self.components > stars:
            log.warning("Only %d stars for %d eigen-images; fitting %d.", stars, self.components, stars)
            self.components = stars

    def _fit_spatially(self, components: FloatArray, stars: PcaStars) -> SpatialModel:
        model = fit_linear(
            components, stars, box=self.box, order=self.settings.spatialOrder, border=self.stamp_border
        )
        if not self.settings.nonLinearSpatialFit:
            return model
        from finalchar.psf.pca_nonlinear import fit_nonlinear

        return fit_nonlinear(
            model,
            stars,
            bad_bits=self.bits.left_out,
            lam=0.0 if self.compatibility == "lsst" else self.settings.lam,
            tolerance=self.settings.tolerance,
        )

    def _compare(self, model: SpatialModel) -> None:
        """Chi-squares of all stars left, bad ones too; those without a stamp keep theirs (8.4)."""
        rows = np.flatnonzero(self.stars.has_centred)
        stars = self.stars.select(rows)
        kernels = model.kernel_images(x=stars.catalogue_x, y=stars.catalogue_y)
        self.chi2[rows] = chi2_of_stars(
            kernels, stars, bad_bits=self.bits.left_out, lam=self.settings.lam
        ).chi2

    def reject(self, iteration: int, model: SpatialModel) -> None:
        """Mark the worst stars bad, by chi-square and by each component (items 2 and 3)."""
        settings = self.settings
        poor = np.flatnonzero(self.chi2 > settings.reducedChi2ForPsfCandidates)
        self.bad[self._worst(poor, self.chi2[poor], iteration)] = True
        rows = np.flatnonzero(self.stars.has_stamp)
        residuals = component_residuals(model, self.stars.select(rows))
        for residual in residuals.T:
            mean, variance = clipped_mean_and_variance(residual)
            deviation = max(np.sqrt(variance), SMALLEST_DEVIATION)
            distance = np.abs(residual - mean)
            far = np.flatnonzero(distance > settings.spatialReject * deviation)
            self.bad[rows[self._worst(far, distance[far], iteration)]] = True

    def _worst(self, rows: IntArray, badness: FloatArray, iteration: int) -> IntArray:
        """The part of the rows that this iteration rejects, the worst first."""
        number = len(rows) * (iteration + 1) // self.settings.nIterForPsf
        return rows[np.argsort(-badness, kind="stable")[:number]]
