"""The settings: one frozen tree that mirrors config.toml key for key. Each part gets only its own branch.

Also what settings are checked against (is an address this machine's own?) and the environment that child processes start with.
"""

import ipaddress
import os
import re
import tomllib
from datetime import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from model.bundle_format import current_name
from model.emotions import Emotion, Prior
from model.errors import ConfigError
from monitor.paths import DatabaseFiles, config_path, default_database, state_dir
from monitor.storage.keys import KeyPlaceName, KeyStore

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def is_loopback_host(host: str) -> bool:
    """Whether a server at this address or name can be reached from this machine only; brackets around IPv6 may be there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


# A microphone's buffer, and a segment after seconds of silence, find processor caches that know nothing of the process any more; to look
# up a thousand small pages again then takes longer than the work itself, on virtual machines above all. See bench/STUDIES.md.
LARGE_PAGES_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "PYTHONMALLOC": "malloc"}

PACKAGED_BUNDLE = "compact"
STORE_URL_VARIABLE = "EMOSLLM_STORE_URL"
"""The variable of the environment that comes before [store] url."""

_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)
_PROMPT_ROOM_MIN = 30
_LANGUAGE = re.compile(r"[a-z]{2,3}", re.ASCII)


def _known_zone(name: str) -> str:
    if name and name not in available_timezones():
        raise ValueError("must be an IANA time zone such as Europe/Paris, or empty for this machine's")
    return name


def _time_of_day(text: str) -> str:
    if not _TIME_OF_DAY.fullmatch(text):
        raise ValueError("must be a time of day such as 09:00")
    return text


def _language_or_any(code: str) -> str:
    if code and not _LANGUAGE.fullmatch(code):
        raise ValueError("must be a language's code such as en or pl, or empty to recognise it in each segment")
    return code


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AudioConfig(_Section):
    """[audio]: where sound comes from."""

    device: str = ""
    buffer_ms: Annotated[int, Field(ge=10, le=500)] = 60
    queue_s: Annotated[int, Field(ge=1, le=600)] = 30


class SegmenterConfig(_Section):
    """[segmenter]: how speech is cut out of the stream."""

    detector: Literal["silero", "webrtcvad"] = "silero"
    aggressiveness: Annotated[int, Field(ge=0, le=3)] = 2
    frame_ms: Literal[10, 20, 30] = 30
    onset_ms: Annotated[int, Field(ge=30, le=1000)] = 150
    pre_roll_ms: Annotated[int, Field(ge=0, le=2000)] = 300
    hangover_ms: Annotated[int, Field(ge=60, le=3000)] = 600
    min_segment_ms: Annotated[int, Field(ge=500, le=5000)] = 1000
    max_segment_ms: Annotated[int, Field(ge=2000, le=30000)] = 15000

    @model_validator(mode="after")
    def _ordered(self) -> "SegmenterConfig":
        if self.max_segment_ms < 2 * self.min_segment_ms:
            raise ValueError("max_segment_ms must be at least twice min_segment_ms, so that long speech can be cut")
        # Long speech is cut in the last third of the maximum; what opened the segment must lie before that.
        if self.max_segment_ms < 2 * (self.pre_roll_ms + self.onset_ms):
            raise ValueError("max_segment_ms must be at least twice pre_roll_ms and onset_ms together")
        return self


Precision = Literal["auto", "float32", "bfloat16", "fp8"]
"""The numbers in which vLLM keeps a language model's weights."""


def _checked_prior(setting: object) -> object:
    if isinstance(setting, dict):
        unknown = [str(letter) for letter in setting if letter not in list(Emotion)]
        if unknown or not all(isinstance(weight, int | float) for weight in setting.values()):
            raise ValueError(f"must give numbers to letters of emotions ({', '.join(Emotion)})")
        Prior.of({Emotion(letter): weight for letter, weight in setting.items()})
    elif isinstance(setting, str):
        Prior.named(setting)
    else:
        raise ValueError('must be "everyday", "balanced" or a table of letters')
    return setting


class EngineConfig(_Section):
    """[engine]: what judges the segments."""

    kind: Literal["embedded", "server", "transformers"] = "embedded"
    bundle: Annotated[str, AfterValidator(current_name)] = PACKAGED_BUNDLE
    url: str = "http://127.0.0.1:8000"
    key_file: str = ""
    ca_file: str = ""
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 64
    start_timeout_s: Annotated[int, Field(ge=5, le=3600)] = 300
    stop_timeout_s: Annotated[int, Field(ge=0, le=600)] = 60
    kv_cache_mib: Annotated[int, Field(ge=16, le=1_000_000)] = 32
    precision: Precision = "auto"
    prior: Annotated[str | dict[str, float], BeforeValidator(_checked_prior)] = "everyday"
    transcriber: str = ""
    transcriber_language: Annotated[str, AfterValidator(_language_or_any)] = ""

    def expected(self) -> Prior:
        """What posteriors are corrected to."""
        return Prior.of(self.prior if isinstance(self.prior, str) else {Emotion(letter): n for letter, n in self.prior.items()})

    @model_validator(mode="after")
    def _precise(self) -> "EngineConfig":
        if self.precision != "auto" and self.kind != "embedded":
            raise ValueError(f'precision is for kind "embedded", not {self.kind!r}; a server is told its own: serve --precision')
        return self

    @model_validator(mode="after")
    def _private(self) -> "EngineConfig":
        url = urlsplit(self.url)
        safe = url.scheme == "https" or (url.scheme == "http" and is_loopback_host(url.hostname or ""))
        if self.kind == "server" and not (url.hostname and safe):
            raise ValueError(
                f"url must begin with https:// where the server is on another machine, not {self.url!r}: others could read along"
            )
        return self


class TimelineConfig(_Section):
    """[timeline]: where results are kept and in which zone a day is a day."""

    database: str = ""
    key: KeyPlaceName = "auto"
    backups: Annotated[int, Field(ge=1, le=1000)] = 7
    zone: Annotated[str, AfterValidator(_known_zone)] = ""

    def database_path(self) -> Path:
        """The database file; by default `timeline.db` in the state directory."""
        return self.files().database

    def files(self) -> DatabaseFiles:
        """The database file and what lies beside it."""
        return DatabaseFiles(Path(self.database).expanduser() if self.database else default_database())

    def keys(self) -> KeyStore:
        """Where the key that opens the database is looked for."""
        return KeyStore(self.key, state_dir())

    def zone_info(self) -> ZoneInfo:
        """The zone that decides which day a moment belongs to."""
        if self.zone:
            return ZoneInfo(self.zone)
        import tzlocal

        return ZoneInfo(tzlocal.get_localzone_name())


class StoreConfig(_Section):
    """[store]: a clinic's PostgreSQL, for whoever shares with it, reads there or looks after it."""

    url: str = ""
    share_past: bool = False

    @property
    def is_set(self) -> bool:
        """Whether a clinic is named, here or in the environment."""
        return bool(self.url or os.environ.get(STORE_URL_VARIABLE))


class SpoolConfig(_Section):
    """[spool]: how much speech may wait, encrypted, for an engine that is slow or down."""

    max_mib: Annotated[int, Field(ge=1, le=100_000)] = 512
    max_hours: Annotated[int, Field(ge=1, le=24 * 31)] = 48


class PrivacyConfig(_Section):
    """[privacy]: what is kept beyond times and estimates; nothing unless the person says so."""

    keep_transcripts: bool = False
    keep_audio: bool = False
    keep_audio_days: Annotated[int, Field(ge=1, le=3650)] = 30


class CheckInConfig(_Section):
    """[checkin]: whether, and between which times of day, the person is asked how they feel."""

    prompts_per_day: Annotated[int, Field(ge=0, le=12)] = 0
    earliest: Annotated[str, AfterValidator(_time_of_day)] = "09:00"
    latest: Annotated[str, AfterValidator(_time_of_day)] = "21:00"

    @model_validator(mode="after")
    def _roomy(self) -> "CheckInConfig":
        (start, end), needed_min = self.window(), max(1, self.prompts_per_day) * _PROMPT_ROOM_MIN
        if (end.hour - start.hour) * 60 + end.minute - start.minute < needed_min:
            raise ValueError(
                f"latest must be at least {needed_min} minutes after earliest, on the same day: {_PROMPT_ROOM_MIN} for each prompt"
            )
        return self

    def window(self) -> tuple[time, time]:
        """The times of day between which the person may be asked."""
        return time.fromisoformat(self.earliest), time.fromisoformat(self.latest)


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be one line of text")
    return text.strip()


class ReportConfig(_Section):
    """[report]: what reports say beside what was heard."""

    # A report is printed on one page, so what everyone finds on it is short.
    contacts: Annotated[list[Annotated[str, AfterValidator(_one_line), Field(max_length=100)]], Field(max_length=5)] = []
    patient: Annotated[str, Field(max_length=100)] = ""


def _time_or_off(text: str) -> str:
    return _time_of_day(text) if text else text


_WhenOrNever = Annotated[str, AfterValidator(_time_or_off)]


class ScheduleConfig(_Section):
    """[schedule]: at which time of day the monitor's jobs are done; empty means never."""

    summaries: _WhenOrNever = "00:10"
    backup: _WhenOrNever = "00:30"
    retention: _WhenOrNever = "01:00"
    retrain: _WhenOrNever = "03:00"


class RetrainConfig(_Section):
    """[retrain]: what nightly retraining needs, and what it may take."""

    min_labels: Annotated[int, Field(ge=20, le=10_000)] = 40
    min_new_labels: Annotated[int, Field(ge=1, le=10_000)] = 10
    checkin_weight: Annotated[float, Field(ge=0, le=1)] = 0.2
    on_mains_only: bool = True
    when_idle: bool = True
    max_cores: Annotated[int, Field(ge=1, le=256)] = 1
    max_memory_mib: Annotated[int, Field(ge=500, le=10_000_000)] = 4000
    max_minutes: Annotated[int, Field(ge=1, le=24 * 60)] = 60
    keep: Annotated[int, Field(ge=2, le=1000)] = 5


class LogConfig(_Section):
    """[log]: what the daemon writes about itself; never words, labels or audio."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section):
    """The whole tree."""

    audio: AudioConfig = AudioConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    engine: EngineConfig = EngineConfig()
    spool: SpoolConfig = SpoolConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    timeline: TimelineConfig = TimelineConfig()
    store: StoreConfig = StoreConfig()
    checkin: CheckInConfig = CheckInConfig()
    report: ReportConfig = ReportConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    retrain: RetrainConfig = RetrainConfig()
    log: LogConfig = LogConfig()


def load_config(path: Path | None = None) -> Config:
    """Read settings from `path`, or from the person's own file where there is one, else the defaults.

    Raises ConfigError naming file, section, key, the value found and what is allowed.
    """
    source = path or config_path()
    if path is None and not source.exists():
        return Config()
    try:
        tree = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings in {source}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is not valid TOML: {error}") from error
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = [_explain_problem(problem) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(problems)) from error


def _explain_problem(problem: "ErrorDetails") -> str:
    section, *rest = (str(part) for part in problem["loc"])
    where = f"[{section}] {'.'.join(rest)}".strip()
    if problem["type"] == "extra_forbidden":
        return f"{where} is not a setting; {_allowed_keys(section, bool(rest))}"
    found = "" if isinstance(problem["input"], dict) else f", not {problem['input']!r}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{found}"


def _allowed_keys(section: str, known_section: bool) -> str:
    if not known_section:
        return "the sections are " + ", ".join(f"[{name}]" for name in Config.model_fields)
    branch = type(getattr(Config(), section))
    return f"[{section}] has " + ", ".join(branch.model_fields)
