"""Settings: the shipped file is the defaults, and what is wrong is named with what is allowed."""

import tomllib
from pathlib import Path

import pytest

from model.errors import ConfigError
from monitor.config import Config, load_config
from tests.support.paths import ROOT


def test_the_shipped_file_names_every_setting_with_its_default_and_a_comment() -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text) == Config().model_dump()
    assert load_config(ROOT / "config.toml") == Config()
    settings = [line for line in text.splitlines() if " = " in line]
    assert all("  # " in line for line in settings)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[sgementer]\n", ["[sgementer]", "[segmenter]", "[engine]"]),
        ("[segmenter]\nhangover = 3", ["[segmenter] hangover", "hangover_ms"]),
        ("[segmenter]\nframe_ms = 25", ["frame_ms", "25", "10, 20 or 30"]),
        ("[segmenter]\naggressiveness = 4", ["aggressiveness", "3", "4"]),
        ('[engine]\nkind = "gpu"', ["kind", "'gpu'", "embedded", "server", "transformers"]),
        ('[engine]\nkind = "transformers"\nprecision = "fp8"', ["precision", "embedded", "'transformers'", "serve --precision"]),
        ('[engine]\nmax_batch = "8"', ["max_batch", "'8'", "integer"]),
        ('[timeline]\nzone = "Europe/Pariss"', ["zone", "Europe/Pariss", "IANA"]),
        ("[segmenter]\nmin_segment_ms = 2000\nmax_segment_ms = 3000", ["max_segment_ms", "twice"]),
        ("[segmenter]\nmax_segment_ms = 2000\npre_roll_ms = 2000", ["pre_roll_ms and onset_ms together"]),
        ("[checkin]\nprompts_per_day = 13", ["prompts_per_day", "13", "12"]),
        ('[checkin]\nearliest = "9:00"', ["earliest", "'9:00'", "such as 09:00"]),
        ('[checkin]\nlatest = "24:00"', ["latest", "'24:00'", "such as 09:00"]),
        ('[checkin]\nearliest = "21:00"\nlatest = "09:00"', ["latest must be at least 30 minutes after earliest"]),
        ('[checkin]\nprompts_per_day = 5\nlatest = "11:00"', ["at least 150 minutes after earliest", "30 for each prompt"]),
        ('[report]\ncontacts = ["two\\nlines"]', ["contacts", "one line"]),
        (f"[report]\ncontacts = {['a'] * 6}", ["contacts", "5"]),
        ("[engine\n", ["TOML"]),
        ("engine = 3\n", ["[engine]", "3"]),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    for part in [str(path), *parts]:
        assert part in str(error.value)


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        load_config(tmp_path / "gone.toml")


def test_without_a_file_of_ones_own_the_defaults_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_config() == Config()
    (tmp_path / "emosllm-monitor").mkdir()
    (tmp_path / "emosllm-monitor/config.toml").write_text('[timeline]\nzone = "Asia/Kathmandu"\n')
    assert load_config().timeline.zone_info().key == "Asia/Kathmandu"
