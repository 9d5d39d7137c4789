"""How a report is asked for: which formats there are, what goes together, and how it is written to a file.

A report is private: its file can be read by its owner only, and is there whole or not at all.
"""

import contextlib
import os
import tempfile
from enum import StrEnum
from pathlib import Path

from model.errors import ReportError


class Format(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    PDF = "pdf"
    CSV = "csv"
    FHIR = "fhir"


_BY_ENDING = {".txt": Format.TEXT, ".json": Format.JSON, ".html": Format.HTML, ".htm": Format.HTML, ".pdf": Format.PDF, ".csv": Format.CSV}
_OF_SHEETS = (Format.HTML, Format.PDF)


def choose_format(asked: Format | None, out: Path | None, plain: bool, sheet: bool) -> Format:
    """The format that was asked for, or else that the file's name ends with. Raises ReportError for what does not go together."""
    usual = Format.HTML if sheet else Format.TEXT
    form = asked or (_BY_ENDING.get(out.suffix.lower(), usual) if out is not None else usual)
    if plain and form is not Format.TEXT:
        raise ReportError(f"--plain is a way to write text, not {form}: leave one of them out")
    if sheet and form not in _OF_SHEETS:
        raise ReportError(f"the sheet is a page, not {form}: give --format html or pdf")
    if form is Format.PDF and out is None:
        raise ReportError("a PDF is nothing for a terminal: say with --out where it goes")
    return form


def check_target(out: Path, force: bool) -> None:
    """Raise ReportError where a report cannot go to `out`, before the work of making it."""
    if out.is_dir():
        raise ReportError(f"{out} is a folder: name a file in it")
    if not out.parent.is_dir():
        raise ReportError(f"there is no folder {out.parent}: make it, or name another file")
    if out.exists() and not force:
        raise ReportError(f"{out} is there already: name another file, or write over it with --force")


def write_private(out: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises ReportError."""
    try:
        descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(out)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise ReportError(f"cannot write {out}: {error.strerror}; name another file, or free some space") from error
