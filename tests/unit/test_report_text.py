"""The report a person reads: nothing missing, nothing claimed beyond the data, readable on any output."""

import csv
import io
import json
import re
from dataclasses import replace
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from model.emotions import Emotion, Prediction
from monitor.analysis.days import Day
from monitor.analysis.formatting import DISCLAIMER
from monitor.analysis.summarize import summarize
from monitor.analysis.summary import DaySummary, Quartiles, VoiceStatistics
from monitor.analysis.trend import LastingChange, UsualRange
from monitor.reports import sentences
from monitor.reports.csv_report import to_csv
from monitor.reports.data import ReportData
from monitor.reports.json_report import to_json
from monitor.reports.text_report import TextReport, to_plain
from monitor.reports.view_model import day_cells
from monitor.storage.records import Coverage, CoverageInterval, SegmentRecord, SegmentState
from tests.support.days import of_days, of_one_day, story

PARIS = ZoneInfo("Europe/Paris")
DAY = Day(date(2026, 7, 14), PARIS)
ORDINARY = {Emotion.NEUTRAL: 0.2, Emotion.HAPPY: 0.3, Emotion.SAD: 0.5}


def summary(
    *segments: tuple[float, float, Emotion | str | None],
    heard: tuple[float, float] | None = (8, 14),
    day: Day = DAY,
    now_hour: float = 30,
    bundles: tuple[str, ...] = ("compact-1",),
) -> DaySummary:
    """segments: hour, seconds, and the emotion, "?" for unsure, None for waiting, or why it was not judged."""
    entries = []
    for number, (hour, seconds, outcome) in enumerate(segments):
        start = day.start + timedelta(hours=hour)
        place = (number, "s", number, number + 1, start, start + timedelta(seconds=seconds), str(day.zone))
        if isinstance(outcome, Emotion) or outcome == "?":
            posterior = dict.fromkeys(ORDINARY, 0.0)
            posterior[outcome if isinstance(outcome, Emotion) else Emotion.SAD] = 1.0
            prediction = Prediction(posterior, outcome == "?", bundles[number % len(bundles)])
            entries.append(SegmentRecord(*place, SegmentState.JUDGED, None, prediction, place[5]))
        else:
            state = SegmentState.UNJUDGED if outcome else SegmentState.WAITING
            entries.append(SegmentRecord(*place, state, outcome))
    start, end = (day.start + timedelta(hours=hour) for hour in heard or (0, 1))
    kind = Coverage.HEARD if heard else Coverage.DEVICE_LOST
    coverage = [CoverageInterval("s", kind, start, end, str(day.zone))]
    return summarize(day, entries, coverage, day.start + timedelta(hours=now_hour))


def material(summary: DaySummary) -> ReportData:
    return replace(of_one_day(summary), contacts=())


def text(summary: DaySummary, width: int = 80, encoding: str = "utf-8", colour: bool = False) -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        Console(file=file, width=width, force_terminal=colour).print(TextReport(material(summary)))
        file.flush()
        return raw.getvalue().decode(encoding)


def words(summary: DaySummary) -> str:
    return re.sub(r"\s+", " ", text(summary))


FULL = summary(
    (9, 50, Emotion.SAD),
    (9.1, 50, Emotion.NEUTRAL),
    (9.2, 50, Emotion.NEUTRAL),
    (10, 50, "?"),
    (11, 10, None),
    (12, 20, "the engine did not start"),
)


def test_a_report_in_full() -> None:
    assert [line.rstrip() for line in text(FULL).splitlines()] == [
        "  Tuesday 14 July 2026                                            Europe/Paris",
        "  PARTIAL: some speech is still waiting for analysis.",
        "",
        "  Recorded         6 h   of 24 h",
        "  Off             18 h   monitor off, computer asleep, or data erased",
        "  Speech         4 min   6 segments",
        "  Unsure          50 s   25 % of analysed speech: low confidence",
        "  Not analysed    20 s   1 segment: the engine did not start",
        "  Waiting         10 s   1 segment, waiting for analysis",
        "",
        "  How the voice sounded",
        "  of 2 min of speech the model was sure about",
        "  neutral   ████████████████   67 %   2 min",
        "  sad       ████████           33 %    50 s",
        "  not found: happy",
        "",
        "  Hour by hour",
        "  recorded time, and the emotion with the largest share",
        "  hour      00    03    06    09    12    15    18    21",
        "  recorded                  ████████████",
        "  emotion                   · N ? ? ? ·",
        "  N neutral   ? unsure or not analysed   · no speech   blank not recorded",
        "",
        "  Analysed by model compact-1.",
        "",
        *[f"  {line}" for line in WRAPPED_NOTICE],
        "",
    ]


WRAPPED_NOTICE = [
    "These are estimates by a computer from the sound of a voice. They are often",
    "wrong and are not a diagnosis. Nobody is watching: only people you show this",
    "to can see it. If you or someone near you is in danger, call your local",
    "emergency number.",
]

REPORTS = {
    "full": FULL,
    "not recorded": summary(heard=None),
    "no speech": summary(),
    "little": summary((9, 10, Emotion.SAD), (9.1, 5, Emotion.NEUTRAL)),
    "only unsure": summary((9, 10, "?")),
    "only waiting": summary((9, 10, None)),
    "25 hours": summary((9, 50, Emotion.SAD), (10, 50, Emotion.SAD), day=Day(date(2026, 10, 25), PARIS), now_hour=30),
    "23 hours": summary((9, 50, Emotion.SAD), (10, 50, Emotion.SAD), day=Day(date(2026, 3, 29), PARIS), now_hour=30),
    "24.5 hours": summary((9, 50, Emotion.SAD), day=Day(date(2026, 4, 5), ZoneInfo("Australia/Lord_Howe"))),
    "two models": summary((9, 50, Emotion.SAD), (10, 50, Emotion.SAD), bundles=("compact-1", "compact-2")),
}
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS.keys())


@every_report
@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_and_every_report_says_what_it_is_not(report: DaySummary, width: int) -> None:
    lines = text(report, width).splitlines()
    assert max(map(len, lines)) <= width
    assert DISCLAIMER in re.sub(r"\s+", " ", " ".join(lines))


@every_report
def test_colour_adds_nothing_but_colour(report: DaySummary) -> None:
    assert re.sub(r"\x1b\[[\d;]*m", "", text(report, colour=True)) == text(report)


@every_report
def test_an_output_without_unicode_gets_ascii(report: DaySummary) -> None:
    assert text(report, encoding="ascii").isascii()


@every_report
def test_a_narrow_window_keeps_every_word(report: DaySummary) -> None:
    assert sorted(re.findall(r"[a-z]{3,}", text(report, width=64))) == sorted(re.findall(r"[a-z]{3,}", text(report)))


def test_a_day_without_sound_names_no_emotion() -> None:
    shown = words(summary(heard=None))
    assert "NO DATA: nothing was recorded, so nothing is known about this day." in shown
    assert "Recorded 0 s of 24 h Lost 1 h the microphone was disconnected Off 23 h monitor off, computer asleep, or data erased" in shown
    assert not re.search("neutral|happy|sad|Analysed|Hour by hour|%", shown)


def test_silence_is_not_neutral() -> None:
    shown = words(summary())
    assert "Speech 0 s 0 segments" in shown
    assert "· no speech" in shown
    assert not re.search("neutral|happy|sad|%", shown)


def test_little_speech_is_counted_not_given_as_per_cent() -> None:
    shown = words(summary((9, 10, Emotion.SAD), (9.1, 5, Emotion.NEUTRAL), (9.2, 5, Emotion.SAD)))
    assert "only 20 s of speech was sure: too little for percentages" in shown
    assert "sad 2 segments 15 s neutral 1 segment 5 s not found: happy" in shown
    assert re.findall(r"\d+ %", shown) == ["0 %"]  # the unsure share


def test_when_all_is_unsure_no_emotion_is_named() -> None:
    shown = words(summary((9, 10, "?"), (9.5, 10, "?")))
    assert "Unsure 20 s 100 % of analysed speech" in shown
    assert "No segment was above the confidence threshold." in shown
    assert not re.search("neutral|happy|sad", shown)


def test_shares_too_small_to_round_still_show() -> None:
    many = [(8 + index / 100, 55, Emotion.NEUTRAL) for index in range(20)]
    shown = words(summary((14.5, 1, Emotion.SAD), *many))
    assert re.search(r"neutral █+ 100 % 18 min sad █ under 1 % 1 s", shown)


def test_a_day_that_is_not_over_says_until_when() -> None:
    shown = words(summary((9, 50, Emotion.SAD), now_hour=14.5))
    assert "Tuesday 14 July 2026, until 14:30 Europe/Paris PARTIAL: the day is not over yet." in shown
    assert "Recorded 6 h of 14 h 30 min Off 8 h 30 min monitor off" in shown


def test_reasons_are_printed_as_they_are() -> None:
    assert "1 segment: [Errno 28] no space :x: left" in words(summary((9, 20, "[Errno 28] no space :x: left")))


def test_the_strip_follows_the_clock_when_it_is_changed() -> None:
    shown = text(REPORTS["25 hours"])
    assert "hour      00      03    06    09    12    15    18    21" in shown
    assert "The clocks changed: this day has 25 h." in shown
    assert "hour      00  03    06    09    12    15    18    21" in text(REPORTS["23 hours"])


def test_a_change_of_model_is_not_left_to_look_like_mood() -> None:
    shown = words(REPORTS["two models"])
    assert (
        "compact-1 (1 segment) and compact-2 (1 segment): differences between their hours may come from the models, not from you." in shown
    )


def test_json_holds_the_same_facts() -> None:
    report = json.loads(to_json(material(FULL)))
    assert (report["day"], report["zone"], report["state"]) == ("2026-07-14", "Europe/Paris", "PARTIAL")
    assert (report["start"], report["end"]) == ("2026-07-13T22:00:00+00:00", "2026-07-14T22:00:00+00:00")
    assert (report["passed_s"], report["heard_s"]) == (86_400, 21_600)
    assert report["coverage_s"] == {"heard": 21_600, "not-running": 64_800}
    assert [part["kind"] for part in report["coverage"]] == ["not-running", "heard", "not-running"]
    assert report["bundles"] == {"compact-1": 4}
    speech = report["speech"]
    assert (speech["segments"], speech["seconds"], speech["unsure_share"]) == (6, 230, 0.25)
    assert speech["emotions"]["neutral"] == {
        "letter": "N",
        "segments": 2,
        "seconds": 100,
        "share": 0.666667,
        "counted_share": 0.666667,
        "share_95": None,
    }
    assert speech["emotions"]["happy"]["share"] == 0
    assert speech["unjudged"] == {"the engine did not start": {"segments": 1, "seconds": 20}}
    assert len(report["hours"]) == 24
    assert sum(hour["heard_s"] for hour in report["hours"]) == report["heard_s"]
    assert report["notice"] == DISCLAIMER


def test_json_of_an_empty_day_has_nulls_not_zeros() -> None:
    report = json.loads(to_json(material(summary(heard=None))))
    assert (report["state"], report["heard_s"], report["coverage_s"]["device-lost"]) == ("NO DATA", 0, 3600)
    assert (report["speech"]["emotions"], report["speech"]["unsure_share"]) == ({}, None)
    unsure = json.loads(to_json(material(summary((9, 10, "?")))))
    assert unsure["speech"]["emotions"]["sad"] == {
        "letter": "S",
        "segments": 0,
        "seconds": 0,
        "share": None,
        "counted_share": None,
        "share_95": None,
    }
    assert unsure["speech"]["shares_are"] is None


def test_shares_stand_beside_what_they_may_be_in_truth() -> None:
    known = replace(FULL, speech=replace(FULL.speech, intervals={Emotion.NEUTRAL: (0.521, 0.8), Emotion.SAD: (0, 1)}))
    shown = words(known)
    assert "neutral ████████████████ 67 % 52 to 80 % 2 min sad ████████ 33 % 0 to 100 % 50 s" in shown
    assert "95 % intervals" in shown
    assert max(map(len, text(known).splitlines())) <= 80
    assert "neutral: 67 %, 95 % interval 52 to 80 %, 2 segments, 2 min." in to_plain(material(known))
    assert json.loads(to_json(material(known)))["speech"]["emotions"]["sad"]["share_95"] == [0, 1]


ESTIMATED = replace(
    FULL,
    speech=replace(
        FULL.speech,
        estimated={Emotion.NEUTRAL: 0.55, Emotion.SAD: 0.25, Emotion.HAPPY: 0.2},
        intervals={Emotion.NEUTRAL: (0.3, 0.8), Emotion.SAD: (0.1, 0.5), Emotion.HAPPY: (0.0, 0.45)},
    ),
)


def test_estimated_shares_are_of_all_judged_speech_and_say_so() -> None:
    """Happy was never sure, and still has a share; of unsure speech nothing is left out."""
    shown = words(ESTIMATED)
    assert "estimated from 3 min of analysed speech, with the 95 % interval" in shown
    assert "neutral █████████████ 55 % 30 to 80 % sure: 2 min sad ██████ 25 % 10 to 50 % sure: 50 s" in shown
    assert "happy █████ 20 % 0 to 45 % sure: none" in shown
    assert "not found" not in shown
    assert max(map(len, text(ESTIMATED).splitlines())) <= 80
    plain = to_plain(material(ESTIMATED))
    assert "sad: 25 %, 95 % interval 10 to 50 %, 1 segment, sure: 50 s." in plain
    assert "happy: 20 %, 95 % interval 0 to 45 %, sure: none." in plain


def test_programs_are_told_how_shares_came_about() -> None:
    told, counted = (json.loads(to_json(material(day)))["speech"] for day in (ESTIMATED, FULL))
    assert (told["shares_are"], counted["shares_are"]) == ("estimated", "counted")
    assert told["emotions"]["happy"] | {} == {
        "letter": "H",
        "segments": 0,
        "seconds": 0,
        "share": 0.2,
        "counted_share": 0,
        "share_95": [0.0, 0.45],
    }
    row = next(csv.DictReader(io.StringIO(to_csv(material(ESTIMATED)))))
    assert (row["shares_are"], row["share_sad"], row["share_sad_low"], row["share_happy"]) == ("estimated", "0.25", "0.1", "0.2")


def test_of_little_judged_speech_no_share_is_told() -> None:
    short = summary((9, 20, Emotion.SAD), (9.1, 20, "?"))
    short = replace(short, speech=replace(short.speech, estimated=dict.fromkeys(short.speech.emotions, 1 / 3)))
    assert "only 40 s of speech was analysed: too little for percentages sad 1 segment 20 s not found:" in words(short)


def test_a_day_is_mostly_what_its_estimated_shares_say() -> None:
    sure_of_sad = summary((9, 90, Emotion.SAD), (10, 900, "?"))
    estimated = {Emotion.SAD: 0.2, Emotion.NEUTRAL: 0.7, Emotion.HAPPY: 0.1}
    assert day_cells(sure_of_sad)[5] == "sad 100 %"
    assert day_cells(replace(sure_of_sad, speech=replace(sure_of_sad.speech, estimated=estimated)))[5] == "neutral 70 %"


PERIOD = of_days(story(14, without=(5, 6)))


def test_a_period_is_a_line_a_day_and_names_days_without_data() -> None:
    shown = shown_period(PERIOD)
    days = [line for line in shown.splitlines() if re.match(r"  (Mon|Tue|Wed|Thu|Fri|Sat|Sun) ", line)]
    assert [line.split()[3:] for line in days if "NO DATA" in line] == [["NO", "DATA"]] * 2
    assert len(days) == 14
    assert max(map(len, shown.splitlines())) <= 80
    assert "Recorded on 12 of 14 days" in shown
    assert "2 days with NO DATA are left out" in re.sub(r"\s+", " ", shown)


def shown_period(of: ReportData) -> str:
    raw = io.StringIO()
    Console(file=raw, width=80).print(TextReport(of))
    return raw.getvalue()


@every_report
def test_plain_text_draws_nothing_and_lines_nothing_up(report: DaySummary) -> None:
    shown = to_plain(material(report))
    assert shown.isascii()
    assert "  " not in shown
    assert not re.search(r"[|#_=]{2}", shown)
    assert shown.endswith(DISCLAIMER)


def test_plain_text_of_a_period_says_the_same_as_its_table() -> None:
    lines = to_plain(PERIOD).splitlines()
    assert sum(line.endswith(": NO DATA.") for line in lines) == 2
    assert sum("; recorded 12 h 18 min; speech " in line for line in lines) == 12


def test_a_day_tells_how_emotions_followed_each_other_and_how_the_voice_sounded() -> None:
    speech = replace(PERIOD.day.speech, voice=VoiceStatistics(50, Quartiles(-31.2, -27.0, -23.6), Quartiles(171.4, 190.0, 212.8)))
    day = replace(PERIOD.day, speech=speech, transitions={(Emotion.NEUTRAL, Emotion.NEUTRAL): 20, (Emotion.SAD, Emotion.NEUTRAL): 3})
    said = sentences.day_sentences(replace(PERIOD, days=(day,)))
    assert "From one sure segment to the next the emotion changed 3 of 23 times, most often from sad to neutral (3)." in said
    heard = "Half of the segments had a loudness of -31 to -24 dB re full scale and a pitch of 171 to 213 Hz"
    assert any(sentence.startswith(heard) for sentence in said)
    silent = replace(day, transitions={}, speech=replace(speech, voice=None))
    assert not any(
        "segments had" in sentence or "From one" in sentence for sentence in sentences.day_sentences(replace(PERIOD, days=(silent,)))
    )


def test_what_lasts_and_what_is_new_is_said_in_plain_words() -> None:
    measure = PERIOD.trends["share_S"].measure
    lasting = LastingChange(
        measure, 1, 6, 7, UsualRange(0.1, 0.2, 0.3, 28), "Sadness was above your usual range on 6 of the last 7 covered days."
    )
    told = replace(PERIOD, trends={"share_S": replace(PERIOD.trends["share_S"], change=lasting)}, self_report=("It fits.", "Mostly."))
    said = sentences.period_sentences(told)
    assert "Sadness was above your usual range on 6 of the last 7 covered days." in said
    assert said[-2:] == ["Over at least 28 days: It fits.", "Mostly."]
    marked = of_days(story(28))
    assert (
        "A different model was used from Tuesday 7 July 2026: differences before and after may come from the model, not from you."
        in sentences.period_sentences(marked)
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "neither unpleasant nor pleasant"),
        (-0.14, "neither unpleasant nor pleasant"),
        (0.2, "slightly pleasant"),
        (-0.5, "unpleasant"),
        (-1, "very unpleasant"),
    ],
)
def test_places_on_a_scale_have_words(value: float, words: str) -> None:
    assert sentences.format_level(value, "unpleasant", "pleasant") == words


def test_a_table_has_a_row_a_day_and_nothing_where_nothing_is_known() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(PERIOD))))
    assert len(rows) == 14
    empty = [row for row in rows if row["state"] == "NO DATA"]
    assert len(empty) == 2
    for row in empty:
        assert {name for name, cell in row.items() if cell not in ("", "0.0", "0")} <= {
            "day",
            "zone",
            "state",
            "passed_s",
            "not_running_s",
            "checkins",
            "checkin_valence_mean",
        }
        assert row["share_neutral"] == row["valence_mean"] == row["speech_s"] == ""
    assert all(float(row["valence_mean"]) < 0.5 for row in rows if row["state"] != "NO DATA")


def test_a_table_holds_no_formula() -> None:
    cells = next(csv.DictReader(io.StringIO(to_csv(material(replace(FULL, bundles={"=HYPERLINK(1)": 4}))))))
    assert cells["models"] == "'=HYPERLINK(1)"


def test_json_of_a_period_has_its_days_and_trends() -> None:
    report = json.loads(to_json(PERIOD))
    assert (report["first"], report["last"], len(report["days"])) == ("2026-07-01", "2026-07-14", 14)
    assert [point["day"] for point in report["trends"]["valence"]["points"]] == [day["day"] for day in report["days"]]
    assert [point["value"] for point in report["trends"]["valence"]["points"]][5:7] == [None, None]
    assert "note" not in report["checkins"][0]
