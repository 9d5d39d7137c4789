"""Several views of every clip, at several speeds and in several rooms, computed once and kept on disk; and nano's features of them.

F feature frames. `FeatureStore` augments nano's features anew each time an example is drawn.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor

from model.audio import SAMPLE_RATE, Float32, read_audio
from model.nano_encoder import N_MELS, extract_features, normalise_features
from train.corpora.manifest import Utterance
from train.corpora.splits import NoiseSet
from train.learning.augmentation import RoomAugmentation
from train.workers import Progress, worker_pool

_AT_ONCE = 32

# Half precision halves a gigabyte; its rounding (under 0.5 % of a pitch, 0.01 of a log-power) is far below what two takes differ by.
Rows = npt.NDArray[np.float16]
Extract = Callable[[Float32], Rows]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Which views of each clip there are: at each of `speeds`, and `rooms` times in a room drawn at random, heard in `room_share`.

    noises: recordings by kind; halved: of the kinds, those of which only the first halves are heard.
    """

    speeds: tuple[float, ...]
    rooms: int = 0
    room_share: float = 0.0
    noises: tuple[tuple[Path, ...], ...] = ()
    halved: tuple[bool, ...] = ()

    @classmethod
    def of(cls, speeds: Sequence[float], rooms: int, room_share: float, noises: Sequence[NoiseSet]) -> "Augmentation":
        """As a recipe says it."""
        recordings = tuple(tuple(path.absolute() for path in noise.paths) for noise in noises)
        return cls(tuple(speeds), rooms, room_share, recordings, tuple(noise.second_half is not None for noise in noises))

    @property
    def count(self) -> int:
        """Views of a clip."""
        return len(self.speeds) + self.rooms

    def draw(self, rng: np.random.Generator) -> int:
        """The number of a view: in a room as often as `room_share` says."""
        if rng.random() < self.room_share:
            return len(self.speeds) + int(rng.integers(self.rooms))
        return int(rng.integers(len(self.speeds)))


class ViewStore:
    """Rows of all views of utterances, in one memory-mapped file under `folder`, made where it is missing.

    name: of the file, beside a hash of what is in it; it must change with what `make_extract` makes. make_extract: called once in every
    process that makes views; what it returns turns sound into rows.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        utterances: Sequence[Utterance],
        augmentation: Augmentation,
        make_extract: Callable[[], Extract],
    ) -> None:
        self.utterances, self.augmentation = list(utterances), augmentation
        self._index = {utterance.path: i for i, utterance in enumerate(self.utterances)}
        key = hashlib.sha256(repr(([str(u.path.absolute()) for u in self.utterances], augmentation)).encode()).hexdigest()[:12]
        self._path = folder / f"{name}-{key}.npy"
        if not self._path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._compute(name, make_extract)
        self._rows = np.load(self._path, mmap_mode="r")
        self._bounds = np.load(self._path.with_suffix(".bounds.npy"))

    def rows(self, utterance: Utterance, view: int = 0) -> Tensor:
        """float32 (R, C) of one of an utterance's views: first those at each speed, then those in rooms."""
        slot = self._index[utterance.path] * self.augmentation.count + view
        return torch.from_numpy(np.array(self._rows[self._bounds[slot] : self._bounds[slot + 1]], dtype=np.float32))

    def length(self, utterance: Utterance) -> int:
        """R of an utterance as recorded."""
        slot = self._index[utterance.path] * self.augmentation.count
        return int(self._bounds[slot + 1] - self._bounds[slot])

    def _compute(self, name: str, make_extract: Callable[[], Extract]) -> None:
        """All views, a core for each part of the clips."""
        pieces: list[Rows] = []
        paths = [[u.path for u in self.utterances[i : i + _AT_ONCE]] for i in range(0, len(self.utterances), _AT_ONCE)]
        with (
            worker_pool(os.cpu_count() or 1, _begin, (self.augmentation, make_extract)) as pool,
            Progress(name, len(self.utterances)) as progress,
        ):
            for part in pool.map(_rows_of, paths):
                pieces += part
                progress.advance(len(pieces) // self.augmentation.count - 1)
        np.save(self._path.with_suffix(".bounds.npy"), np.cumsum([0] + [len(piece) for piece in pieces]))
        partial = self._path.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(pieces))
        partial.rename(self._path)


# What a worker process makes views from; set once when it starts.
_worker: dict[str, tuple[Augmentation, RoomAugmentation, Extract]] = {}


def _begin(augmentation: Augmentation, make_extract: Callable[[], Extract]) -> None:
    torch.set_num_threads(1)
    kinds = [[read_audio(path) for path in kind] for kind in augmentation.noises]
    halved = zip(kinds, augmentation.halved, strict=True)
    rooms = RoomAugmentation([[noise[: len(noise) // 2] if half else noise for noise in kind] for kind, half in halved])
    _worker["views"] = augmentation, rooms, make_extract()


def _rows_of(paths: Sequence[Path]) -> list[Rows]:
    augmentation, rooms, extract = _worker["views"]
    return [extract(audio) for path in paths for audio in _views_of_clip(path, augmentation, rooms)]


def _views_of_clip(path: Path, augmentation: Augmentation, rooms: RoomAugmentation) -> Iterator[Float32]:
    """A clip in all its views."""
    audio = read_audio(path)
    # The name, so that a clip gets the same rooms whatever else is computed with it.
    rng = np.random.default_rng(list(path.name.encode()))
    for speed in augmentation.speeds:
        yield _at_speed(audio, speed)
    slowest, fastest = min(augmentation.speeds), max(augmentation.speeds)
    for _ in range(augmentation.rooms):
        yield rooms.anywhere(_at_speed(audio, float(rng.uniform(slowest, fastest))), rng)


def _at_speed(audio: Float32, speed: float) -> Float32:
    return audio if speed == 1.0 else np.asarray(soxr.resample(audio, SAMPLE_RATE * speed, SAMPLE_RATE), dtype=np.float32)


_MIN_FRAMES = 20
_MAX_FRAMES = 130  # 2.6 s: longer clips are seen in pieces, so that batches are small
_CROP_CHANCE = 0.5
_CURVE, _CURVE_RIPPLES = 0.5, 4  # 2.2 dB each


class FeatureStore(ViewStore):
    """Raw features (F, N_RAW) of all views of utterances."""

    def __init__(self, folder: Path, utterances: Sequence[Utterance], augmentation: Augmentation) -> None:
        super().__init__(folder, "features", utterances, augmentation, _make_extract)

    def view(self, utterance: Utterance, rng: np.random.Generator) -> Tensor:
        """One augmented view (F, N_FEATURES), at most 2.6 s: speed or room, crop, microphone, then a band and a time mask."""
        raw = self.rows(utterance, self.augmentation.draw(rng))
        kept = len(raw)
        if rng.random() < _CROP_CHANCE:
            kept = max(_MIN_FRAMES, int(kept * rng.uniform(0.7, 1.0)))
        kept = min(kept, _MAX_FRAMES)
        start = int(rng.integers(max(1, len(raw) - kept + 1)))
        return _masked(normalise_features(_through_another_microphone(raw[start : start + kept], rng)), rng)


def _make_extract() -> Extract:
    return _raw


def _raw(audio: Float32) -> Rows:
    return extract_features(torch.from_numpy(audio)).numpy().astype(np.float16)


def _through_another_microphone(raw: Tensor, rng: np.random.Generator) -> Tensor:
    """The log-mel bands with a smooth curve on them, a few dB up and down, as microphones and places in a room differ."""
    places = torch.linspace(0, math.pi, N_MELS)
    curve = sum(float(rng.normal(scale=_CURVE)) * torch.cos(ripples * places) for ripples in range(1, _CURVE_RIPPLES + 1))
    raw[:, :N_MELS] += curve
    return raw


def _masked(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Hide up to 8 bands and up to a tenth of the time (Park et al., 2019)."""
    band, width = int(rng.integers(N_MELS)), int(rng.integers(8))
    for channel in (0, N_MELS):
        features[:, channel + band : channel + min(N_MELS, band + width)] = 0
    hidden = int(rng.uniform(0, 0.1) * len(features))
    start = int(rng.integers(max(1, len(features) - hidden)))
    features[start : start + hidden] = 0
    return features
