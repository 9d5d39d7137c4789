"""PDFs: a day and a sheet fit one sheet of paper, and making one asks for nothing."""

import re
import socket
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import date

import pytest

from monitor.day.days import Day
from monitor.day.summary import Amount
from monitor.report.page import to_page
from monitor.report.pdf import to_pdf
from monitor.report.sheet import to_sheet
from tests.some_days import PARIS, checkins, empty_day, entries, full_day, of_days, of_one_day

PAGES: dict[str, Callable[[], str]] = {
    "full day": lambda: to_page(of_one_day(said=checkins(), segments=entries())),
    "25 hours": lambda: to_page(of_one_day(full_day(Day(date(2026, 10, 25), PARIS)), segments=entries(Day(date(2026, 10, 25), PARIS)))),
    "no data": lambda: to_page(of_one_day(empty_day())),
    "crowded day": lambda: _crowded(),
    "sheet": lambda: to_sheet(of_days(patient="A. N. Other"), "compact"),
}


def _crowded() -> str:
    """As much as can be on a day: every contact at its longest, many sentences, many reasons."""
    contacts = tuple(f"{number} " + "somebody with a long name, " * 3 for number in range(5))
    word = tuple(
        f"Sentence {number}, which goes on and on and on, as sentences of statistics do: {'1.00 to 2.00, ' * 5}." for number in range(6)
    )
    given_up = {f"reason {number}: the engine did not start": Amount(1, 20.0) for number in range(4)}
    day = full_day()
    crowded = replace(day, speech=replace(day.speech, unjudged=given_up))
    return to_page(replace(of_one_day(crowded, checkins(), entries()), contacts=contacts, own_word=word))


@pytest.mark.parametrize("made", PAGES.values(), ids=PAGES.keys())
def test_a_day_and_a_sheet_are_one_page_of_a4(made: Callable[[], str]) -> None:
    pdf = to_pdf(made(), one_sheet=True)
    assert pdf.startswith(b"%PDF-")
    assert _pages(pdf) == 1


def _pages(pdf: bytes) -> int:
    """How many pages are among its objects, which are compressed."""
    streams = [zlib.decompressobj().decompress(stream) for stream in re.findall(rb"stream\r?\n(x.*?)endstream", pdf, re.DOTALL)]
    return len(re.findall(rb"/Type ?/Page\b", b"\n".join([pdf, *streams])))


def test_a_page_that_asks_for_something_from_outside_does_not_get_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        assert to_pdf(f"<html lang=en><title>x</title><img src='{address}' alt='x'><img src='file:///etc/hostname' alt='y'>").startswith(
            b"%PDF-"
        )
        with pytest.raises(TimeoutError):
            server.accept()
