"""The program PSFEx, called on a catalogue of star stamps (selection specification 7.3, 7.8).

What goes in is an LDAC catalogue in a temporary folder; what counts of what comes out is the model and the
table of the stars.  The program's exit status says nothing: it is 0 after a model without a star, too.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, MissingProgramError, PsfError
from finalchar.formats.fits_file import BLOCK, Card, FitsFile, Hdu, Header, header_bytes, primary_hdu
from finalchar.programs import PROGRAMS

__all__ = ["PSFEX", "ProgramInput", "ProgramOutput", "run_program"]

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PSFEX = next(program for program in PROGRAMS if program.name == "psfex")
LONGEST_SECONDS = 1800
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS, signal.SIGILL})
"""Signals with which the program ends by itself, the next time too; others come from outside."""
CANNOT_RUN = (126, 127)
"""Exit statuses of a program that was found and did not start, as for want of a library."""
BAD_PIXEL = np.float32(-1e30)
FLUX_RADIUS = 1e-3
"""Pixels.  The program centres every star again within a window that goes with this radius, PSF_RECENTER or
not; in one that holds no pixel centre it cannot, and the star stays where the catalogue has it."""
SIGNAL_TO_NOISE = 1000.0
"""Of every star: the selection was made before."""
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_STORAGE = {"E": ">f4", "D": ">f8", "J": ">i4", "I": ">i2"}


@dataclass(frozen=True)
class ProgramInput:
    """What PSFEx is to fit.

    Attributes
    ----------
    image : ndarray of float32, shape (n, size, size)
    bad : ndarray of bool, shape (n, size, size)
        Pixels that are marked as missing.
    centre_x, centre_y : ndarray of float64, shape (n,)
        Centres of the stars on the image, counted from 1; the stamps are cut around the pixels they lie on.
    x, y : ndarray of float64, shape (n,)
        Where the polynomial is evaluated.
    flux : ndarray of float64, shape (n,)
    shape : (int, int)
        Width and height of the image.
    background_variance, gain : float
    fwhm : float
        In stamp pixels.
    model_size : int
        Side of the model.
    sampling : float
        Size of a model pixel in stamp pixels.
    degree : int
        Of the polynomial.
    basis : str
        ``NONE`` or ``PIXEL``.
    """

    image: npt.NDArray[np.float32]
    bad: BoolArray
    centre_x: FloatArray
    centre_y: FloatArray
    x: FloatArray
    y: FloatArray
    flux: FloatArray
    shape: tuple[int, int]
    background_variance: float
    gain: float
    fwhm: float
    model_size: int
    sampling: float
    degree: int
    basis: str

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class ProgramOutput:
    """What PSFEx came to.

    Attributes
    ----------
    components : ndarray of float32, shape (terms, model_size, model_size)
    degree : int
        Of the polynomial, which the program lowers where there are too few stars.
    first, second : ndarray of float64, shape (2,)
        Offset and scale of x and y.
    accepted : ndarray of bool, shape (n,)
        Stars that were kept to the end.
    chi_squared : float
        Reduced, mean over the accepted stars.
    star_chi_squared : ndarray of float64, shape (n,)
        Reduced; NaN where the program gives none.
    """

    components: npt.NDArray[np.float32]
    degree: int
    first: FloatArray
    second: FloatArray
    accepted: BoolArray
    chi_squared: float
    star_chi_squared: FloatArray


# --------------------------------------------------------------------------------------------- the program


def run_program(given: ProgramInput) -> ProgramOutput:
    """Let PSFEx fit, in a temporary folder that is gone afterwards.

    Raises
    ------
    MissingProgramError
        If the program is missing.
    PsfError
        If it crashes or leaves something else than a model of these stars.
    ChildProcessError, TimeoutError
        If it is ended from outside (memory, a time limit) or hangs: no outcome of these stars, and tried
        again.
    """
    program = PSFEX.find()
    with tempfile.TemporaryDirectory(prefix="finalchar-psfex-") as name:
        folder = Path(name)
        (folder / "stars.cat").write_bytes(_catalogue(given))
        (folder / "stars.psfex").write_text(_preferences(given), encoding="ascii")
        told = _call([program, "stars.cat", "-c", "stars.psfex"], folder)
        try:
            return _read(folder, given)
        except (InputError, ValueError, KeyError) as error:
            what = str(error).replace(f"{folder}/", "")  # its random name does not belong into a product
            raise PsfError(f"PSFEx did not leave a model ({what}){told}.") from error


def _call(command: list[str], folder: Path) -> str:
    """Run the program and return what is to be said of it in a message about missing results."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **one, "LC_ALL": "C"}  # a decimal point, and the same sums everywhere
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"PSFEx did not end within {LONGEST_SECONDS} seconds") from error
    except OSError as error:
        raise MissingProgramError(f"{command[0]} cannot be run: {error.strerror}.") from error
    text = CONTROL.sub("", (ended.stdout + ended.stderr).decode("utf-8", "replace"))
    lines = [line.strip("> \t") for line in text.splitlines() if line.strip("> \t")]
    for line in lines:
        log.debug("PSFEx: %s", line)
    if ended.returncode < 0:
        if -ended.returncode not in CRASHES:
            raise ChildProcessError(f"PSFEx was ended from outside by signal {-ended.returncode}")
        return f": it was ended by signal {-ended.returncode}"
    if ended.returncode in CANNOT_RUN:
        raise MissingProgramError(f"{command[0]} cannot be run: {' '.join(lines[-1:]) or 'no words'}.")
    last = f", last words: {lines[-1]!r}" if lines else ""
    return f": exit status {ended.returncode}{last}"


# --------------------------------------------------------------------------------------------- what goes in


def _preferences(given: ProgramInput) -> str:
    """Preferences (7.3): nothing is selected, centred again or drawn by the program."""
    smallest = 1e-3 * FLUX_RADIUS
    settings = {
        "BASIS_TYPE": given.basis,
        "BASIS_NUMBER": 20,
        "PSF_SAMPLING": repr(given.sampling),
        "PSF_ACCURACY": 0.01,
        "PSF_SIZE": f"{given.model_size},{given.model_size}",
        "PSF_RECENTER": "N",
        "CENTER_KEYS": "X_IMAGE,Y_IMAGE",
        "PHOTFLUX_KEY": "FLUX_APER(1)",
        "PHOTFLUXERR_KEY": "FLUXERR_APER(1)",
        "PSFVAR_KEYS": "X_CONTEXT,Y_CONTEXT",
        "PSFVAR_GROUPS": "1,1",
        "PSFVAR_DEGREES": given.degree,
        "PSFVAR_NSNAP": 1,  # places of diagnostics, which take more time than the fit
        "SAMPLE_AUTOSELECT": "N",
        "SAMPLE_FWHMRANGE": f"{smallest:.10g},{2.0 * given.fwhm - smallest:.10g}",  # its middle is the FWHM
        "SAMPLE_VARIABILITY": 1.0,
        "SAMPLE_MINSN": 1e-6,
        "SAMPLE_MAXELLIP": 1.0,
        "SAMPLE_FLAGMASK": 0,
        "SAMPLE_WFLAGMASK": 0,
        "SAMPLE_IMAFLAGMASK": 0,
        "BADPIXEL_FILTER": "N",
        "HOMOBASIS_TYPE": "NONE",
        "OUTCAT_TYPE": "FITS_LDAC",
        "OUTCAT_NAME": "accepted.cat",
        "CHECKPLOT_TYPE": "NONE",
        "CHECKPLOT_DEV": "NULL",
        "CHECKIMAGE_TYPE": "NONE",
        "WRITE_XML": "N",
        "PSF_SUFFIX": ".psf",
        "VERBOSE_TYPE": "NORMAL",
        "NTHREADS": 1,
    }
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def _catalogue(given: ProgramInput) -> bytes:
    """LDAC catalogue of the stars (7.8)."""
    width, height = given.shape
    head = header_bytes(  # END is followed by blanks: the program crashes on other bytes
        (
            Card("SIMPLE", True),
            Card("BITPIX", -32),
            Card("NAXIS", 2),
            Card("NAXIS1", width),
            Card("NAXIS2", height),
            Card("SEXBKDEV", float(np.sqrt(given.background_variance))),
            Card("SEXGAIN", given.gain),
        )
    )
    number, size = len(given), given.image.shape[1]
    stamps = np.where(given.bad, BAD_PIXEL, given.image)
    stars: list[tuple[str, str, npt.NDArray[Any]]] = [
        ("NUMBER", "J", np.arange(1, number + 1)),
        ("X_IMAGE", "D", given.centre_x),
        ("Y_IMAGE", "D", given.centre_y),
        ("X_CONTEXT", "D", given.x),
        ("Y_CONTEXT", "D", given.y),
        ("FLUX_APER", "E", given.flux),
        ("FLUXERR_APER", "E", given.flux / SIGNAL_TO_NOISE),
        ("FLUX_RADIUS", "E", np.full(number, FLUX_RADIUS)),
        ("SNR_WIN", "E", np.full(number, SIGNAL_TO_NOISE)),
        ("ELONGATION", "E", np.ones(number)),
        ("FLAGS", "I", np.zeros(number)),
        ("VIGNET", "E", stamps),
    ]
    card = np.array([head], dtype=f"S{len(head)}")
    return b"".join(
        (
            primary_hdu(),
            _table("LDAC_IMHEAD", [("Field Header Card", "A", card)], {1: f"(80,{len(head) // 80})"}),
            _table("LDAC_OBJECTS", stars, {len(stars): f"({size},{size})"}),
        )
    )


def _table(name: str, columns: list[tuple[str, str, npt.NDArray[Any]]], dimensions: dict[int, str]) -> bytes:
    """Binary-table HDU; `dimensions` are TDIM by number of the column."""
    parts, cards = [], []
    for number, (column, code, values) in enumerate(columns, 1):
        stored = values if code == "A" else values.astype(_STORAGE[code])
        block = stored.reshape(len(values), -1).view(np.uint8).reshape(len(values), -1)
        repeat = block.shape[1] if code == "A" else stored.reshape(len(values), -1).shape[1]
        parts.append(block)
        cards += [Card(f"TTYPE{number}", column), Card(f"TFORM{number}", f"{repeat}{code}")]
        if number in dimensions:
            cards.append(Card(f"TDIM{number}", dimensions[number]))
    body = np.concatenate(parts, axis=1)
    head = (
        Card("XTENSION", "BINTABLE"),
        Card("BITPIX", 8),
        Card("NAXIS", 2),
        Card("NAXIS1", body.shape[1]),
        Card("NAXIS2", body.shape[0]),
        Card("PCOUNT", 0),
        Card("GCOUNT", 1),
        Card("TFIELDS", len(columns)),
        Card("EXTNAME", name),
    )
    data = body.tobytes()
    return header_bytes((*head, *cards)) + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


# --------------------------------------------------------------------------------------------- what comes out


def _read(folder: Path, given: ProgramInput) -> ProgramOutput:
    """Read model and stars; `InputError`, ValueError or KeyError if they are not what they must be."""
    model = _named_hdu(FitsFile(folder / "stars.psf"), "PSF_DATA")
    accepted, chi_squared = _read_stars(folder / "accepted.cat", len(given))
    header = model.header
    for keyword, number in (("LOADED", len(given)), ("ACCEPTED", int(accepted.sum()))):
        if header.integer(keyword) != number:
            raise ValueError(f"{keyword} is {header.integer(keyword)} instead of {number}")
    has_position = header.integer("POLNAXIS") == 2
    return ProgramOutput(
        components=_components(model, given.model_size),
        degree=header.integer("POLDEG1") if has_position else 0,
        first=_pair(header, "POLZERO", 0.0) if has_position else np.zeros(2),
        second=_pair(header, "POLSCAL", 1.0) if has_position else np.ones(2),
        accepted=accepted,
        chi_squared=header.number("CHI2"),
        star_chi_squared=chi_squared,
    )


def _named_hdu(file: FitsFile, name: str) -> Hdu:
    found = file.find(name)
    if found is None:
        raise ValueError(f"{file.path.name} has no table {name}")
    return found


def _pair(header: Header, keyword: str, default: float) -> FloatArray:
    return np.array([header.number(f"{keyword}{axis}", default) for axis in (1, 2)])


def _components(model: Hdu, size: int) -> npt.NDArray[np.float32]:
    count = model.data_size // 4
    terms, rest = divmod(count, size * size)
    if terms < 1 or rest:
        raise ValueError(f"the model has {count} pixels, which are not those of images of {size} x {size}")
    pixels = np.frombuffer(model.file.buffer, dtype=">f4", count=count, offset=model.data_start)
    components = pixels.reshape(terms, size, size).astype(np.float32)
    if not np.isfinite(components).all():
        raise ValueError("the model has pixels that are no numbers")
    return components


def _read_stars(path: Path, number: int) -> tuple[BoolArray, FloatArray]:
    """Which stars were accepted, and their chi-squares."""
    table = _named_hdu(FitsFile(path), "LDAC_OBJECTS")
    header = table.header
    names = [header.text(f"TTYPE{k}") for k in range(1, header.integer("TFIELDS") + 1)]
    forms = [re.fullmatch(r"(\d*)([EDJI])", header.text(f"TFORM{k + 1}")) for k in range(len(names))]
    if None in forms:
        raise ValueError(f"{path.name} has columns of an unknown kind")
    layout = [
        (name, _STORAGE[form[2]], (int(form[1] or 1),))
        for name, form in zip(names, forms, strict=True)
        if form
    ]
    rows = np.frombuffer(
        table.file.buffer, dtype=np.dtype(layout), count=header.integer("NAXIS2"), offset=table.data_start
    )
    place = rows["SOURCE_NUMBER"][:, 0].astype(np.int64) - 1
    if np.any((place < 0) | (place >= number)) or len(np.unique(place)) != len(place):
        raise ValueError(f"{path.name} has stars that were not handed in")
    accepted, chi_squared = np.zeros(number, dtype=bool), np.full(number, np.nan)
    accepted[place] = rows["FLAGS_PSF"][:, 0] == 0
    chi_squared[place] = rows["CHI2_PSF"][:, 0]
    return accepted, chi_squared
