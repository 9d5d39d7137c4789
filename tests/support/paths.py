"""Where the repository, the demo recording and the test data are."""

from pathlib import Path

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
DEMO = ROOT / "examples" / "demo.opus"
DATA = ROOT / "tests" / "data"
