"""Takes the README's picture: the dashboard with the days of a made-up person, in Chromium.

    python -m docs.screenshot [FILE]      by default docs/dashboard.png

The days are drawn at random from a fixed seed and have fixed dates, so the picture changes only when the pages or the statistics do.
Needs what the tests need: playwright and Chromium.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

from playwright.sync_api import sync_playwright

from model.bundle_format import find_bundle, read_bundle_manifest
from monitor.storage.cipher import connect
from monitor.storage.keys import KeyStore
from monitor.storage.writer import TimelineWriter
from tests.support.days import SimulatedPerson, write_days

_CHROMIUM = "/usr/bin/chromium"
_PICTURE = Path(__file__).with_name("dashboard.png")
_ZONE = ZoneInfo("Europe/Paris")
_FIRST, _DAYS = date(2026, 1, 5), 84
_PAGE = "week/2026-03-29"
_WINDOW = {"width": 960, "height": 1200}
_CHARTS = 2  # the picture ends below this chart
_LARGEST_BYTES = 300_000


def main(picture: Path = _PICTURE) -> None:
    """Make the days, open the page, and write the picture."""
    with tempfile.TemporaryDirectory() as folder, _dashboard(Path(folder)) as link, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=_WINDOW)
        page.goto(link)
        page.goto(f"{page.url.rstrip('/')}/{_PAGE}", wait_until="networkidle")
        charts = page.locator("figure").nth(_CHARTS - 1).bounding_box()
        assert charts is not None
        page.screenshot(
            path=picture, animations="disabled", clip={"x": 0, "y": 0, "width": _WINDOW["width"], "height": charts["y"] + charts["height"]}
        )
        browser.close()
    size = picture.stat().st_size
    print(f"{picture}: {size / 1000:.0f} kB")
    assert size < _LARGEST_BYTES, "the picture is too large for a README"


@contextmanager
def _dashboard(folder: Path) -> Iterator[str]:
    """The link of a running dashboard over made-up days in `folder`."""
    database, keys, config = folder / "timeline.db", KeyStore("file", folder / "emosllm-monitor"), folder / "config.toml"
    config.write_text(f'[timeline]\ndatabase = "{database}"\nzone = "{_ZONE}"\nkey = "file"\n', encoding="utf-8")
    TimelineWriter.open(database, _ZONE, keys).close()
    connection = connect(database, keys.find(database), read_only=False, timeout_s=5.0)
    version = f"{read_bundle_manifest(find_bundle('compact')).version}+everyday"
    write_days(
        connection, _ZONE, _FIRST, _DAYS, SimulatedPerson(segments=300, no_data=3, change=_DAYS - 9, fall=0.75, version=version, seed=7)
    )
    connection.close()
    command = [sys.executable, "-m", "monitor.cli.main", "--config", str(config), "dashboard", "--no-open"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={"PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(folder)}
    ) as process:
        assert process.stdout is not None
        try:
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        finally:
            process.terminate()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
