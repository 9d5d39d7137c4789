"""Forgets packages that an interrupted installation left half written, so that the next one installs them again.

Run with the environment's own Python. A package is whole when its RECORD, which installers write last, names the
installer and every file it lists is there in full. Otherwise its .dist-info goes: installers then count it as
missing and write over what lies about.
"""

import csv
import shutil
import sysconfig
from pathlib import Path


def is_whole(info: Path) -> bool:
    """Whether everything the package's RECORD lists is on the disk, with the size it was written with."""
    record = info / "RECORD"
    if not (info / "METADATA").is_file() or not record.is_file():
        return False
    with record.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == 3]
    if f"{info.name}/INSTALLER" not in {name for name, _, _ in rows}:
        return False
    return all(_is_written(info.parent / name, size) for name, _, size in rows if not name.endswith(".pyc"))


def _is_written(file: Path, size: str) -> bool:
    try:
        return not size or file.stat().st_size == int(size)
    except OSError:
        return False


def main() -> None:
    site = Path(sysconfig.get_paths()["purelib"])
    for info in sorted(site.glob("*.dist-info")):
        if not is_whole(info):
            print(f"half installed, comes again: {info.name}")
            shutil.rmtree(info)
    for leftover in site.glob("~*"):  # what pip moves aside while it replaces a package
        shutil.rmtree(leftover)


if __name__ == "__main__":
    main()
