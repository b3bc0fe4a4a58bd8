"""Names of images as sheets write them: a path, with the number of an HDU in brackets if need be."""

from __future__ import annotations

import re

__all__ = ["file_and_hdu"]

_HDU = re.compile(r"\[([0-9]{1,4})\]\Z", re.ASCII)


def file_and_hdu(text: str) -> tuple[str, int | None]:
    """Path and HDU of ``file.fits[1]``; None where no HDU is named."""
    found = _HDU.search(text)
    return (text[: found.start()], int(found[1])) if found else (text, None)
