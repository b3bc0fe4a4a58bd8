"""What a job says on the screen: what, where and what to do."""

from __future__ import annotations

import errno
import os

import pytest

from finalchar.errors import MissingColumnError
from finalchar.work.detector import naming_files
from finalchar.work.start import one_sentence, remedy

ROW = {"exposure": "night/calexp 1.fits", "src": "night/src_1.fits"}


def test_a_sentence_about_inputs_names_their_files() -> None:
    said = naming_files("the source catalogue has no column 'coord_ra'", ROW)
    assert said == "the source catalogue has no column 'coord_ra' (night/calexp 1.fits, night/src_1.fits)"
    named = "survey/night/src_1.fits is truncated"
    assert naming_files(named, ROW) == named


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EACCES, "output.folder"),
        (errno.EROFS, "output.folder"),
        (errno.EIO, ""),
    ],
)
def test_what_cannot_be_written_has_a_remedy(
    number: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError(number, os.strerror(number), "output/x")
    assert words in remedy(error)
    with pytest.raises(SystemExit) as ended, one_sentence(lambda: None):
        raise error
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert said == f"error: {os.strerror(number)}: output/x{remedy(error)}\n"


def test_a_sentence_does_not_list_a_wide_table() -> None:
    """It stands in the summary once for every detector."""
    there = [f"column_{number}" for number in range(788)]
    sentence = str(MissingColumnError("flux", table="cat.fits", there=there))
    assert sentence.endswith("(columns there: " + ", ".join(there[:10]) + " and 778 more)")
    assert str(MissingColumnError("flux", table="cat.fits", there=there[:2])).endswith("column_0, column_1)")
