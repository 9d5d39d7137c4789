"""Paralinguistic features of a corpus: measured once per utterance, kept on disk, divided into terciles of the training set (A.3)."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from model.audio import read_audio
from model.paralinguistics import Level, Measured, Terciles, measure
from train.corpora.manifest import Utterance

logger = logging.getLogger(__name__)

_AT_ONCE = 256


class Voices:
    """Low, medium or high, for every feature of every utterance that was measured."""

    def __init__(self, measured: Mapping[Path, Measured], terciles: Terciles) -> None:
        self._measured = measured
        self.terciles = terciles

    @classmethod
    def of(cls, utterances: Sequence[Utterance], kept: Path) -> "Voices":
        """Measure what `kept` (JSON lines) does not hold yet, and fit the terciles on all of them. Raises TrainingError, FormatError."""
        measured = _stored(kept)
        missing = [u.path for u in utterances if str(u.path.absolute()) not in measured]
        kept.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool, kept.open("a", encoding="utf-8") as file:
            for first in range(0, len(missing), _AT_ONCE):
                paths = missing[first : first + _AT_ONCE]
                for path, found in zip(paths, pool.map(_measure, paths, chunksize=16), strict=True):
                    measured[str(path.absolute())] = found
                    file.write(json.dumps({"path": str(path.absolute()), **asdict(found)}) + "\n")
                file.flush()
                logger.info("voices: %d of %d measured", first + len(paths), len(missing))
        own = {u.path: measured[str(u.path.absolute())] for u in utterances}
        return cls(own, Terciles.fit(list(own.values())))

    def levels(self, utterance: Utterance) -> Mapping[str, Level]:
        """See Terciles.levels."""
        return self.terciles.levels(self._measured[utterance.path])


def _measure(path: Path) -> Measured:
    return measure(read_audio(path))


def _stored(path: Path) -> dict[str, Measured]:
    if not path.exists():
        return {}
    return dict(_whole_lines(path.read_text(encoding="utf-8").splitlines()))


def _whole_lines(lines: Iterable[str]) -> Iterable[tuple[str, Measured]]:
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # a kill in the middle of a write leaves half a line, at the end or before later ones; it is measured again
        yield row.pop("path"), Measured(**row)
