"""Piff's PixelGrid + BasisPolynomial fit without a dense matrix: the same steps, batched over stars.

The design matrix of a star is a product of two one-dimensional interpolation matrices, because the
interpolants are separable.  Where the local Jacobian does not mix the axes it is a Kronecker product
``Ly (x) Lx`` of small matrices; otherwise every row is still an outer product of two weight vectors.  The
normal equations of all stars are therefore applied, never built, and solved by conjugate gradients with the
preconditioner ``(K^T W K)^-1 (x) Gy^-1 (x) Gx^-1`` (K: the polynomial basis at the stars; Gy, Gx: Gram
matrices averaged over the stars).

What flows in: stamps, weights and polynomial basis values of the stars, settings of the fit.  What flows
out: a `GridFit` with Piff's coefficients ``q`` and each star's flux, centre, chi-square and flag.  Flux,
re-centring, chi-square and outlier rules are those of Piff 1.7 (``piff.psf.PSF.fit``).

Convergence: conjugate gradients stop when the preconditioned residual has fallen by `TOLERANCE`.  In units
of the drawn PSF that is about the same number times the peak, far below the 1e-8 that the fit is tested to.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from finalchar.errors import PsfError

__all__ = [
    "GridFit",
    "GridSettings",
    "NotDeterminedError",
    "StarStamps",
    "fit_grid",
    "solve_normal_equations",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

TOLERANCE = 1e-13
"""Relative preconditioned residual at which conjugate gradients stop."""
MAX_STEPS = 400
"""Steps after which the system counts as not determined (a well-posed one needs 15 to 60)."""
MIN_STEPS_ALLOWED = 100
"""Steps that are allowed even where a dense solution would be cheaper by then."""
MIN_GRAM_EIGENVALUE = 1e-10
"""Smallest eigenvalue of an averaged Gram matrix, relative to its largest: below, grid points are free."""
CENTRE_STEP_ARCSEC = 1e-5
"""Finite step with which the derivatives by the centre are formed, as in Piff."""


class NotDeterminedError(PsfError):
    """The stars do not determine the coefficients, or the solver did not converge."""


class Interpolant(Protocol):
    """The part of a GalSim interpolant that is needed."""

    def xval(self, x: FloatArray) -> FloatArray:
        """Value of the one-dimensional interpolation kernel."""


@dataclass(frozen=True)
class StarStamps:
    """Pixels of the stars of one fit.

    Attributes
    ----------
    image, weight : ndarray, float64, shape (n, t, t)
        Counts and weights; weight 0 marks pixels that do not count.
    dx, dy : ndarray, float64, shape (n, t)
        Pixel columns and rows relative to the star's nominal position, pixels.
    jacobian : ndarray, float64, shape (n, 2, 2)
        d(u, v)/d(x, y) at the star, arcsec per pixel.
    sigma : ndarray, float64, shape (n,)
        Adaptive-moment sigma of the star, arcsec (start of the fit).
    basis : ndarray, float64, shape (n, nb)
        Polynomial basis values of the star, in Piff's order and scaling.
    usable : ndarray, bool, shape (n,)
        Stars that may enter the fit (False: Piff would have flagged them at the start).
    """

    image: FloatArray
    weight: FloatArray
    dx: FloatArray
    dy: FloatArray
    jacobian: FloatArray
    sigma: FloatArray
    basis: FloatArray
    usable: BoolArray

    def __len__(self) -> int:
        return len(self.image)

    @property
    def separable(self) -> bool:
        """Whether no star's Jacobian mixes the axes."""
        return bool(np.all(self.jacobian[:, 0, 1] == 0) and np.all(self.jacobian[:, 1, 0] == 0))

    @property
    def pixel_area(self) -> FloatArray:
        """Pixel area of each star, arcsec squared."""
        j = self.jacobian
        return np.abs(j[:, 0, 0] * j[:, 1, 1] - j[:, 0, 1] * j[:, 1, 0])

    def u(self) -> FloatArray:
        """Field coordinate u of all pixels relative to the star, arcsec, shape (n, t, t)."""
        return self._world(0)

    def v(self) -> FloatArray:
        """Field coordinate v of all pixels relative to the star, arcsec, shape (n, t, t)."""
        return self._world(1)

    def _world(self, axis: int) -> FloatArray:
        row = self.jacobian[:, axis, :]
        along_x = row[:, 0, None] * self.dx
        along_y = row[:, 1, None] * self.dy
        return np.asarray(along_x[:, None, :] + along_y[:, :, None])


@dataclass(frozen=True)
class GridSettings:
    """Settings of the fit, with Piff's meaning of each."""

    size: int
    scale: float
    interpolant: Interpolant
    centered: bool = True
    max_iter: int = 15
    min_iter: int = 2
    chisq_thresh: float = 0.1
    outlier_probability: float | None = 6.334248366623973e-05  # two-sided tail beyond 4 sigma
    outlier_max_remove: float | None = 0.05


@dataclass(frozen=True)
class GridFit:
    """Result of a fit.

    Attributes
    ----------
    q : ndarray, float64, shape (size**2, nb)
        Piff's interpolation coefficients.
    flux, chisq : ndarray, float64, shape (n,)
        Flux and chi-square of every star.
    center : ndarray, float64, shape (n, 2)
        Centre (u, v) of every star relative to its nominal position, arcsec.
    dof : ndarray, int64, shape (n,)
        Degrees of freedom of every star.
    flagged : ndarray, bool, shape (n,)
        Stars that were excluded.
    """

    q: FloatArray
    flux: FloatArray
    center: FloatArray
    chisq: FloatArray
    dof: npt.NDArray[np.int64]
    flagged: BoolArray
    total_chisq: float = 0.0
    total_dof: int = 0
    last_delta_chisq: float = 0.0
    removed: int = 0
    iterations: int = 0
    solver_steps: int = 0
    converged: bool = False


def fit_grid(stars: StarStamps, settings: GridSettings, *, logger: logging.Logger | None = None) -> GridFit:
    """Fit the grid model to all stars together, with Piff's iteration.

    Parameters
    ----------
    stars : StarStamps
        Pixels, weights and basis values.
    settings : GridSettings
        Model and iteration.
    logger : logging.Logger or None
        Told of every iteration (level INFO).

    Returns
    -------
    GridFit
        Coefficients and per-star results.

    Raises
    ------
    NotDeterminedError
        If the stars do not determine the coefficients.
    PsfError
        If no star is left.
    """
    logger = logger or logging.getLogger(__name__)
    state = _start(stars, settings)
    for iteration in range(settings.max_iter):
        before = state.total_chisq
        logger.info("Iteration %d: Fitting %d stars", iteration + 1, int(np.sum(~state.flagged)))
        rendering = Rendering(stars, settings, state.center)
        state = _update_coefficients(stars, settings, state, rendering)
        state = _update_flux_and_center(stars, settings, state, rendering)
        removed_before = state.removed
        if iteration > 0:
            state = _reject_outliers(settings, state)
        good = ~state.flagged
        chisq, dof = float(state.chisq[good].sum()), int(state.dof[good].sum())
        logger.info("             Total chisq = %.2f / %d dof", chisq, dof)
        state = replace(
            state,
            total_chisq=chisq,
            total_dof=dof,
            last_delta_chisq=before - chisq,
            iterations=iteration + 1,
        )
        quiet = state.removed == removed_before and before > 0
        if quiet and before - chisq < settings.chisq_thresh * dof and iteration + 1 >= settings.min_iter:
            return replace(state, converged=True)
    return state


def _start(stars: StarStamps, settings: GridSettings) -> GridFit:
    """Fluxes and centres from moments, a mean Gaussian as the constant term."""
    good = stars.weight != 0
    data = np.where(good, stars.image, 0.0)
    flux = data.sum(axis=(1, 2))
    center = np.zeros((len(stars), 2))
    if settings.centered:
        flux = np.where(flux != 0, flux, 1.0)
        center[:, 0] = (data * stars.u()).sum(axis=(1, 2)) / flux
        center[:, 1] = (data * stars.v()).sum(axis=(1, 2)) / flux
    grid = (np.arange(settings.size) - settings.size // 2) * settings.scale
    along = np.exp(-(grid**2) / (2.0 * stars.sigma[stars.usable, None] ** 2))
    gauss = along[:, :, None] * along[:, None, :]
    gauss /= gauss.sum(axis=(1, 2), keepdims=True)
    q = np.zeros((settings.size**2, stars.basis.shape[1]))
    q[:, 0] = gauss.mean(axis=0).ravel()
    n = len(stars)
    return GridFit(q, flux, center, np.zeros(n), np.zeros(n, np.int64), ~stars.usable)


class Rendering:
    """Interpolation weights of the stars for given centres: draws grids and collects their gradients."""

    def __init__(self, stars: StarStamps, settings: GridSettings, center: FloatArray) -> None:
        self.separable = stars.separable
        self.area_ratio = stars.pixel_area / settings.scale**2
        self.shape = stars.image.shape[1:]
        self.columns = _axis_weights(stars, settings, center, 0)
        self.rows = _axis_weights(stars, settings, center, 1)

    def take(self, use: BoolArray) -> Rendering:
        """The same for some of the stars."""
        if use.all():
            return self
        taken = copy.copy(self)
        taken.area_ratio, taken.columns, taken.rows = self.area_ratio[use], self.columns[use], self.rows[use]
        return taken

    def moved(self, stars: StarStamps, settings: GridSettings, center: FloatArray, axis: int) -> Rendering:
        """The same with centres that differ along one axis: the weights of the other are kept."""
        moved = copy.copy(self)
        setattr(moved, ("columns", "rows")[axis], _axis_weights(stars, settings, center, axis))
        return moved

    def draw(self, grids: FloatArray) -> FloatArray:
        """Pixel values (n, t, t) of the grids (n, M, M), surface brightness times pixel area."""
        if self.separable:
            drawn = np.matmul(np.matmul(self.rows, grids), self.columns.transpose(0, 2, 1))
        else:
            drawn = np.einsum("npl,npl->np", np.matmul(self.rows, grids), self.columns)
            drawn = drawn.reshape(len(grids), *self.shape)
        return np.asarray(drawn * self.area_ratio[:, None, None])

    def collect(self, pixels: FloatArray) -> FloatArray:
        """Adjoint of `draw`: grids (n, M, M) from pixel values (n, t, t)."""
        pixels = pixels * self.area_ratio[:, None, None]
        if not self.separable:
            pixels = pixels.reshape(len(pixels), -1, 1) * self.columns
            return np.asarray(np.matmul(self.rows.transpose(0, 2, 1), pixels))
        return np.asarray(np.matmul(self.rows.transpose(0, 2, 1), np.matmul(pixels, self.columns)))

    def grams(self, star_weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gram matrices (rows, columns) averaged over the stars with the given weights, shape (M, M)."""
        share = star_weight / star_weight.sum()
        if not self.separable:
            share = share / self.shape[0]
        gram_rows = np.einsum("npk,npl,n->kl", self.rows, self.rows, share, optimize=True)
        gram_columns = np.einsum("npk,npl,n->kl", self.columns, self.columns, share, optimize=True)
        return gram_rows, gram_columns


def _axis_weights(stars: StarStamps, settings: GridSettings, center: FloatArray, axis: int) -> FloatArray:
    """Interpolation weights along u (axis 0) or v (axis 1) of columns or rows, or of all pixels if mixed."""
    if stars.separable:
        pixels = (stars.dx, stars.dy)[axis]
        position = stars.jacobian[:, axis, axis, None] * pixels - center[:, axis, None]
    else:
        world = stars.v() if axis else stars.u()
        position = (world - center[:, axis, None, None]).reshape(len(stars), -1)
    return _kernel(settings)(position / settings.scale)


def _kernel(settings: GridSettings) -> Callable[[FloatArray], FloatArray]:
    """Function from positions (n, p) in grid units to interpolation weights (n, p, M)."""
    grid = np.arange(settings.size) - settings.size // 2

    def weights(position: FloatArray) -> FloatArray:
        distance = grid[None, None, :] - position[:, :, None]
        return np.asarray(settings.interpolant.xval(distance.ravel())).reshape(distance.shape)

    return weights


def star_grids(q: FloatArray, basis: FloatArray, size: int) -> FloatArray:
    """Grid values of every star, shape (n, M, M)."""
    return np.asarray((basis @ q.T).reshape(-1, size, size))


def unit_sum(grids: FloatArray) -> FloatArray:
    """Grids of unit sum."""
    return np.asarray(grids / grids.sum(axis=(1, 2), keepdims=True))


def _update_coefficients(
    stars: StarStamps, settings: GridSettings, state: GridFit, rendering: Rendering
) -> GridFit:
    """Solve for the increment of all coefficients at fixed fluxes and centres."""
    use = ~state.flagged
    if not use.any():
        raise PsfError("No star is left to fit the PSF.")
    used = _take(stars, use)
    center, flux = state.center[use], state.flux[use]
    rendering = rendering.take(use)
    reach = 0.5 * (settings.size + 1) * settings.scale
    inside = (np.abs(used.u() - center[:, 0, None, None]) <= reach) & (
        np.abs(used.v() - center[:, 1, None, None]) <= reach
    )
    weight = np.where(inside, used.weight, 0.0)
    model = rendering.draw(unit_sum(star_grids(state.q, used.basis, settings.size))) * flux[:, None, None]
    residual = np.where(weight != 0, used.image, 0.0) - model
    increment, steps = solve_normal_equations(rendering, used.basis, weight, flux, residual)
    return replace(state, q=state.q + increment, solver_steps=state.solver_steps + steps)


def _take(stars: StarStamps, use: BoolArray) -> StarStamps:
    if use.all():
        return stars
    return StarStamps(**{name: getattr(stars, name)[use] for name in StarStamps.__dataclass_fields__})


def solve_normal_equations(
    rendering: Rendering,
    basis: FloatArray,
    weight: FloatArray,
    flux: FloatArray,
    residual: FloatArray,
) -> tuple[FloatArray, int]:
    """Least-squares increment of the coefficients by preconditioned conjugate gradients.

    Parameters
    ----------
    rendering : Rendering
        Interpolation weights of the stars.
    basis : ndarray, float64, shape (n, nb)
        Polynomial basis values, Piff's scaling.
    weight, residual : ndarray, float64, shape (n, t, t)
        Weights (0: ignored) and data minus model.
    flux : ndarray, float64, shape (n,)
        Fluxes of the stars.

    Returns
    -------
    ndarray, float64, shape (M**2, nb)
        Increment of Piff's ``q``.
    int
        Number of steps.

    Raises
    ------
    NotDeterminedError
        If there are fewer stars than terms, if grid points are not constrained, or without convergence.
    """
    star_weight = flux**2 * weight.mean(axis=(1, 2)) * rendering.area_ratio**2
    scaled, back = orthonormal_basis(basis, star_weight)
    inverse_rows, inverse_columns = (inverse_gram(gram) for gram in rendering.grams(star_weight))
    weight_of_model = weight * (flux**2)[:, None, None]
    size, terms = len(inverse_rows), scaled.shape[1]

    def gather(grids: FloatArray) -> FloatArray:
        return (scaled.T @ grids.reshape(len(grids), -1)).reshape(terms, size, size)

    def apply(x: FloatArray) -> FloatArray:
        grids = (scaled @ x.reshape(terms, -1)).reshape(-1, size, size)
        return gather(rendering.collect(rendering.draw(grids) * weight_of_model))

    def precondition(r: FloatArray) -> FloatArray:
        return np.asarray(inverse_rows @ r @ inverse_columns)

    right = gather(rendering.collect(residual * weight * flux[:, None, None]))
    solution, steps = _conjugate_gradients(apply, precondition, right, _allowed_steps(rendering, terms))
    return (back @ solution.reshape(terms, -1)).T, steps


def orthonormal_basis(basis: FloatArray, star_weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Basis values orthonormal under the stars' weights, and the matrix that leads back to Piff's terms.

    High orders of pixel coordinates make the raw powers ill-conditioned; the columns are scaled and
    orthonormalised here, and coefficients are given back for the raw terms.
    """
    column_scale = np.abs(basis).max(axis=0)
    column_scale = np.where(column_scale > 0, column_scale, 1.0)
    root = np.sqrt(star_weight)[:, None]
    q, r = np.linalg.qr(root * (basis / column_scale))
    diagonal = np.abs(np.diag(r))
    if len(basis) < basis.shape[1] or diagonal.min() <= 1e-12 * diagonal.max():
        raise NotDeterminedError(
            f"{len(basis)} stars at their places do not determine {basis.shape[1]} polynomial terms"
        )
    return q / root, np.linalg.inv(r) / column_scale[:, None]


def inverse_gram(gram: FloatArray) -> FloatArray:
    """Inverse of an averaged Gram matrix; error if grid rows or columns are not constrained."""
    values, vectors = np.linalg.eigh(gram)
    if values[0] <= MIN_GRAM_EIGENVALUE * values[-1]:
        raise NotDeterminedError("pixels of the stars do not constrain all points of the PSF grid")
    return np.asarray((vectors / values) @ vectors.T)


def _conjugate_gradients(
    apply: Callable[[FloatArray], FloatArray],
    precondition: Callable[[FloatArray], FloatArray],
    right: FloatArray,
    allowed: int,
) -> tuple[FloatArray, int]:
    """Solve ``apply(x) = right`` for a symmetric positive operator in at most so many steps."""
    x = np.zeros_like(right)
    residual = right.copy()
    z = precondition(residual)
    direction = z.copy()
    product = float(np.vdot(residual, z))
    goal = product * TOLERANCE**2
    for step in range(1, allowed + 1):
        if product <= goal:
            return x, step - 1
        image = apply(direction)
        curvature = float(np.vdot(direction, image))
        if not curvature > 0:
            break
        length = product / curvature
        x += length * direction
        residual -= length * image
        z = precondition(residual)
        previous, product = product, float(np.vdot(residual, z))
        direction = z + (product / previous) * direction
    raise NotDeterminedError(f"the PSF equations did not converge in {allowed} steps")


def _allowed_steps(rendering: Rendering, terms: int) -> int:
    """Steps after which building and solving the dense system would have been the cheaper way."""
    stars, _, size = rendering.columns.shape
    unknowns, pixels = size**2 * terms, math.prod(rendering.shape)
    dense = stars * (pixels * size**4 + 2 * unknowns**2) + unknowns**3 / 3
    if rendering.separable:
        step = 4 * stars * rendering.shape[0] * size * (rendering.shape[1] + size)
    else:
        step = 4 * stars * pixels * size**2
    return max(MIN_STEPS_ALLOWED, min(MAX_STEPS, int(dense / step)))


def _update_flux_and_center(
    stars: StarStamps, settings: GridSettings, state: GridFit, rendering: Rendering
) -> GridFit:
    """One step of flux and centre for every star (``piff.psf.PSF.reflux``), chi-square after it."""
    grids = unit_sum(star_grids(state.q, stars.basis, settings.size))
    unit = rendering.draw(grids)
    model = unit * state.flux[:, None, None]
    pull = stars.weight * model
    data_sum = (pull * stars.image).sum(axis=(1, 2))
    model_sum = (pull * model).sum(axis=(1, 2))
    model_sum = np.where(model_sum == 0, 1.0, model_sum)
    ratio = data_sum / model_sum
    flux = state.flux * ratio
    residual = stars.image - model * ratio[:, None, None]
    pixels = np.count_nonzero(stars.weight, axis=(1, 2))
    if not settings.centered:
        chisq = (residual**2 * stars.weight).sum(axis=(1, 2))
        return replace(state, flux=flux, chisq=chisq, dof=pixels - 1)
    moved = [_moved(rendering, stars, settings, state.center, axis).draw(grids) for axis in (0, 1)]
    step, chisq = _flux_and_center_step(stars, unit, moved, flux, residual, pull)
    centroid = np.stack(
        [(pull * model * world).sum(axis=(1, 2)) / model_sum for world in (stars.u(), stars.v())], axis=1
    )
    return replace(
        state,
        flux=flux + step[:, 0],
        center=step[:, 1:] + centroid,  # the model's own centroid is moved into the centre, as in Piff
        chisq=chisq,
        dof=pixels - 3,
    )


def _moved(
    rendering: Rendering, stars: StarStamps, settings: GridSettings, center: FloatArray, axis: int
) -> Rendering:
    """The rendering with all centres moved by the finite step along an axis."""
    center = center.copy()
    center[:, axis] += CENTRE_STEP_ARCSEC
    return rendering.moved(stars, settings, center, axis)


def _flux_and_center_step(
    stars: StarStamps,
    unit: FloatArray,
    moved: list[FloatArray],
    flux: FloatArray,
    residual: FloatArray,
    pull: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Weighted step (d flux, du, dv) of every star, shape (n, 3), and chi-square after it.

    `unit` are the drawn stars of flux 1, `moved` the same with centres moved along u and along v.
    """
    n = len(stars)
    design = np.empty((n, 3, unit[0].size))
    design[:, 0] = unit.reshape(n, -1)
    for axis in (0, 1):
        difference = moved[axis] - unit
        design[:, 1 + axis] = (difference * (flux / CENTRE_STEP_ARCSEC)[:, None, None]).reshape(n, -1)
    flat = residual.reshape(n, -1)
    weighted = design * np.abs(pull).reshape(n, 1, -1)
    normal = np.matmul(weighted, design.transpose(0, 2, 1))
    right = np.matmul(weighted, flat[:, :, None])
    step = _solve_each(normal, right)
    after = flat - np.matmul(step[:, None, :], design)[:, 0]
    return step, (after**2 * stars.weight.reshape(n, -1)).sum(axis=1)


def _solve_each(normal: FloatArray, right: FloatArray) -> FloatArray:
    """Solve each star's 3 x 3 system; NaN where it is singular."""
    good = np.isfinite(normal).all(axis=(1, 2)) & (np.abs(np.linalg.det(np.nan_to_num(normal))) > 0)
    step = np.full(right.shape[:2], np.nan)
    step[good] = np.linalg.solve(normal[good], right[good])[:, :, 0]
    return step


def _reject_outliers(settings: GridSettings, state: GridFit) -> GridFit:
    """Flag stars with too large a chi-square (``piff.outliers.ChisqOutliers``)."""
    if settings.outlier_probability is None:
        return state
    from scipy.special import chdtri

    good = ~state.flagged
    factor = max(1.0, float(state.chisq[good].sum() / state.dof[good].sum()))
    threshold = chdtri(state.dof.astype(float), settings.outlier_probability) * factor
    bad = good & ~(state.chisq <= threshold)
    found = int(bad.sum())
    if not found:
        return state
    limit = settings.outlier_max_remove
    if limit is not None and 0 < limit < 1:
        limit = math.ceil(limit * int(good.sum()))
    if limit is not None and found > limit:
        excess = (state.chisq - threshold)[good]
        smallest = np.sort(excess)[-int(limit)]
        bad = good & ~(state.chisq - threshold < smallest)
        found = int(limit)
    return replace(state, flagged=state.flagged | bad, removed=state.removed + found)
