"""Corpora become manifests: official layouts are read, whatever is broken is told, and no speaker stands on two sides."""

import argparse
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.emotions import Emotion
from model.errors import TrainingError
from tests.support import corpora
from train.corpora.finder import CorpusContents
from train.corpora.layouts import CORPORA
from train.corpora.manifest import (
    Utterance,
    of_splits,
    read_corpus_manifest,
    require_disjoint,
    require_speaker_disjoint_splits,
    write_corpus_manifest,
)
from train.corpora.prepare import add_prepare_arguments, prepare_corpus, prepared_text


def _read(name: str, folder: Path) -> CorpusContents:
    return CORPORA[name].read(folder)


def _kinds(found: CorpusContents) -> dict[str, int]:
    return dict(Counter(problem.what for problem in found.problems))


def _one(found: CorpusContents, stem: str) -> Utterance:
    (utterance,) = (u for u in found.utterances if u.path.stem == stem)
    return utterance


def test_librispeech_gives_words_subsets_as_splits_and_genders(tmp_path: Path) -> None:
    found = _read("librispeech", corpora.librispeech(tmp_path))
    assert [(u.path.stem, u.speaker, u.gender, u.transcript, u.split) for u in found.utterances] == [
        ("84-121123-0000", "librispeech_84", "male", "go do you hear", "dev-clean"),
        ("84-121550-0000", "librispeech_84", "male", None, "dev-clean"),
        ("19-198-0000", "librispeech_19", "female", "northanger abbey", "train-clean-100"),
        ("19-198-0001", "librispeech_19", "female", "this little work", "train-clean-100"),
    ]
    assert {(u.corpus, u.emotion, u.language, u.license) for u in found.utterances} == {("LibriSpeech", None, "en", "CC BY 4.0")}
    assert _kinds(found) == {"audio is missing": 1, "text file is missing": 1, "no transcript": 1}


def test_msp_podcast_keeps_its_splits_and_leaves_out_what_nobody_agreed_on(tmp_path: Path) -> None:
    found = _read("msp-podcast", corpora.msp_podcast(tmp_path))
    first = _one(found, "MSP-PODCAST_0001_0008")
    assert (first.speaker, first.gender, first.emotion) == ("msp-podcast_30", "male", Emotion.NEUTRAL)
    assert (first.transcript, first.split) == ("well you know", "test1")
    assert Counter(u.emotion for u in found.utterances) == Counter("NACSO")
    assert _kinds(found)["no agreement on an emotion (X)"] == 1


def test_unknown_speakers_of_msp_podcast_are_neither_one_person_nor_shared_by_splits(tmp_path: Path) -> None:
    found = _read("msp-podcast", corpora.msp_podcast(tmp_path))
    unknown = {f"{n:04}": _one(found, f"MSP-PODCAST_0001_{n:04}").speaker for n in (9, 10, 11)}
    assert unknown["0009"] == unknown["0010"] != unknown["0011"]
    require_speaker_disjoint_splits(found.utterances)
    assert sum(p.kept and p.what.startswith("speaker not known") for p in found.problems) == 3


def test_everything_wrong_in_msp_podcast_is_told(tmp_path: Path) -> None:
    folder = corpora.msp_podcast(tmp_path, {"a_1": "N,1,Male,Train", "a_2": "Q,1,Male,Train", "a_3": "N,1,Male,Later"})
    (folder / "Audios/a_4.wav").write_bytes(corpora.voice(folder / "Audios/Audios/a_1.wav").read_bytes())
    (folder / "Transcripts/a_1.txt").write_bytes(b"caf\xe9")
    with (folder / "Labels/labels_consensus.csv").open("a") as file:
        file.write("a_5.wav,N,1,1,1,1,Male,Train\n")
    found = _read("msp-podcast", folder)
    assert [u.path.stem for u in found.utterances] == ["a_1"]
    assert _kinds(found) == {
        "a second file of the same name": 1,
        "unknown label 'Q'": 1,
        "unknown split 'Later'": 1,
        "audio is missing": 1,
        "text file is not UTF-8": 1,
        "no transcript": 1,
        "audio without a label": 1,
    }


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".opus", ".ogg", ".mp3"])
def test_ravdess_is_read_from_its_file_names_in_any_audio_format(suffix: str, tmp_path: Path) -> None:
    found = _read("ravdess", corpora.ravdess(tmp_path, suffix))
    calm = _one(found, "03-01-02-01-02-01-04")
    assert (calm.speaker, calm.gender, calm.emotion) == ("ravdess_04", "female", Emotion.NEUTRAL)
    assert calm.transcript == "Dogs are sitting by the door"
    assert Counter(u.emotion for u in found.utterances) == {Emotion.NEUTRAL: 8, Emotion.ANGRY: 4}
    assert not found.problems


def test_songs_videos_and_strange_names_in_ravdess_are_left_out(tmp_path: Path) -> None:
    for name in ("03-02-03-01-01-01-01", "01-01-03-01-01-01-01", "03-01-09-01-01-01-01", "take two"):
        corpora.voice(tmp_path / "Actor_01" / f"{name}.wav")
    found = _read("ravdess", tmp_path)
    assert not found.utterances
    assert _kinds(found) == {
        "not audio-only speech (03-01)": 2,
        "unknown label '09'": 1,
        "not named by seven numbers as RAVDESS names its files": 1,
    }


def test_crema_d_takes_genders_from_its_table_and_words_from_its_names(tmp_path: Path) -> None:
    folder = corpora.crema_d(tmp_path)
    corpora.voice(folder / "AudioWAV/1003_TIE_SAD_XX.wav")
    corpora.voice(folder / "AudioWAV/1001_TIE_BOR_XX.wav")
    found = _read("crema-d", folder)
    last = _one(found, "1002_WSI_NEU_XX")
    assert (last.speaker, last.gender, last.age, last.emotion) == ("crema-d_1002", "female", 21, Emotion.NEUTRAL)
    assert last.transcript == "We'll stop in a couple of minutes"
    stranger = _one(found, "1003_TIE_SAD_XX")
    assert (stranger.gender, stranger.age) == (None, None)
    assert _kinds(found) == {"gender not known": 1, "unknown label 'BOR'": 1}


def test_iemocap_tells_the_two_speakers_of_a_dialogue_apart(tmp_path: Path) -> None:
    found = _read("iemocap", corpora.iemocap(tmp_path))
    assert [(u.path.stem[-4:], u.speaker, u.gender, u.emotion, u.transcript) for u in found.utterances] == [
        ("F000", "iemocap_Ses01F", "female", "N", "Turn F000."),
        ("F001", "iemocap_Ses01F", "female", "H", "Turn F001."),
        ("M000", "iemocap_Ses01M", "male", "O", "Turn M000."),
        ("M001", "iemocap_Ses01M", "male", "A", "Turn M001."),
    ]
    assert _kinds(found) == {"no agreement on an emotion (xxx)": 1}


def test_nemo_is_read_from_its_table(tmp_path: Path) -> None:
    found = _read("nemo", corpora.nemo(tmp_path))
    first = _one(found, "WR0_surprised_64")
    assert (first.speaker, first.gender, first.age, first.emotion) == ("nemo_WR0", "male", 23, Emotion.SURPRISE)
    assert first.language == "pl"
    assert first.transcript == "„Ród smoka” to serial."
    assert not found.problems


def _heard(found: CorpusContents) -> list[tuple[str, str | None, int | None, str | None, str | None]]:
    return sorted((u.speaker, u.gender, u.age, u.emotion, u.transcript) for u in found.utterances)


def test_emo_db_is_read_from_its_names_without_boredom(tmp_path: Path) -> None:
    folder = corpora.emo_db(tmp_path)
    corpora.voice(folder / "wav/03a01.wav")
    corpora.voice(folder / "wav/99a01Wa.wav")
    found = _read("emo-db", folder)
    first = "Der Lappen liegt auf dem Eisschrank."
    last = "Die wird auf dem Platz sein, wo wir sie immer hinlegen."
    assert [one for one in _heard(found) if one[0] != "emo-db_99"] == [
        ("emo-db_03", "male", 31, "H", first),
        ("emo-db_03", "male", 31, "H", first),
        ("emo-db_16", "female", 31, "N", last),
        ("emo-db_16", "female", 31, "S", last),
    ]
    (stranger,) = (u for u in found.utterances if u.speaker == "emo-db_99")
    assert (stranger.gender, stranger.age, stranger.emotion) == (None, None, "A")
    assert _kinds(found) == {
        "boredom, for which there is no letter": 1,
        "not named SPEAKER TEXT EMOTION VERSION as in 03a01Fa": 1,
        "gender not known": 1,
    }


def test_emovo_and_ased_tell_gender_by_name(tmp_path: Path) -> None:
    found = _read("emovo", corpora.emovo(tmp_path / "emovo"))
    assert _heard(found) == [
        ("emovo_f1", "female", None, "D", "Gli operai si alzano presto."),
        ("emovo_f1", "female", None, "U", "Uno quarantatré dieci mille cinquantasette venti."),
        ("emovo_m2", "male", None, "N", "Sabato sera cosa farà?"),
    ]
    assert not found.problems
    found = _read("ased", corpora.ased(tmp_path / "ased"))
    assert _heard(found) == [
        ("ased_21", "female", None, "N", None),
        ("ased_58", "male", None, "S", None),
        ("ased_58", "male", None, "S", None),
    ]
    assert {(u.corpus, u.language) for u in found.utterances} == {("ASED", "am")}
    assert _kinds(found) == {"no transcript": 3}


def test_tess_and_savee_know_copies_from_recordings_of_the_same_number(tmp_path: Path) -> None:
    found = _read("tess", corpora.tess(tmp_path / "tess"))
    assert _heard(found) == [
        ("tess_OA", "female", 64, "A", "Say the word back"),
        ("tess_OA", "female", 64, "N", "Say the word bite"),
        ("tess_YA", "female", 26, "U", "Say the word dog"),
    ]
    assert _kinds(found) == {"a second file of the same name": 3}
    found = _read("savee", corpora.savee(tmp_path / "savee"))
    assert [one[:4] for one in _heard(found)] == [
        ("savee_DC", "male", None, "A"),
        ("savee_DC", "male", None, "S"),
        ("savee_JK", "male", None, "A"),
    ]
    assert _kinds(found) == {"no transcript": 3}


@pytest.mark.parametrize(
    "name",
    ["librispeech", "msp-podcast", "crema-d", "nemo", "generic", "ravdess", "iemocap", "emo-db", "emovo", "ased", "tess", "savee"],
)
def test_a_folder_that_is_not_the_corpus_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"name the folder that holds|is it the folder of that corpus"):
        prepare_corpus(name, tmp_path, tmp_path / "out.csv")
    assert not list(tmp_path.iterdir())


def test_prepared_manifests_hold_what_can_be_heard_and_list_the_rest(tmp_path: Path) -> None:
    folder = corpora.ravdess(tmp_path)
    actor = folder / "Actor_01"
    corpora.write(actor / "03-01-03-01-01-01-01.wav", "no sound at all")
    (actor / "03-01-03-01-01-02-01.wav").write_bytes(b"")
    corpora.voice(actor / "03-01-03-01-02-01-01.wav", seconds=0.05)
    soundfile.write(actor / "03-01-04-01-01-01-01.wav", np.zeros(8000), 16000)
    soundfile.write(actor / "03-01-04-01-02-01-01.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
    for cut in (corpora.voice(actor / f"03-01-04-01-03-0{n}-01{suffix}", seconds=3) for n, suffix in ((1, ".mp3"), (2, ".wav"))):
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    prepared = prepare_corpus("ravdess", folder, folder / "manifest.csv", validation_speakers=["03"], test_speakers=["ravdess_04"])
    rows = read_corpus_manifest(folder / "manifest.csv")
    assert Counter(u.split for u in rows) == {"train": 6, "validation": 3, "test": 3}
    assert Counter(problem.what for problem in prepared.problems) == {
        "audio cannot be decoded": 2,
        "audio is shorter than 0.1 s": 1,
        "audio is silent": 1,
        "audio has samples that are no numbers": 1,
        "audio ends before its header says": 2,
    }, "those cut off have no transcript either, but are told once"
    listed = (folder / "manifest.csv.problems.tsv").read_text().splitlines()
    assert len(listed) == 1 + 7
    assert (prepared.counts[1].split, prepared.counts[1].speakers, round(prepared.counts[1].hours * 3600, 1)) == ("train", 2, 1.8)
    text = prepared_text(prepared)
    for part in ("Left out: audio cannot be decoded: 2", "Actor_01/03-01-03-01-01-02-01.wav", "manifest.csv.problems.tsv", "unlabelled"):
        assert part in text


def test_without_checking_audio_only_headers_are_read(tmp_path: Path) -> None:
    soundfile.write(corpora.ravdess(tmp_path) / "Actor_01/03-01-04-01-01-01-01.wav", np.zeros(8000), 16000)
    corpora.write(tmp_path / "Actor_01/03-01-03-01-01-01-01.wav", "no sound at all")
    prepared = prepare_corpus("ravdess", tmp_path, tmp_path / "manifest.csv", check_audio=False)
    assert [problem.what for problem in prepared.problems] == ["audio cannot be decoded"]
    assert sum(split.utterances for split in prepared.counts) == 13


def test_only_ten_files_of_a_kind_are_shown_and_all_are_listed(tmp_path: Path) -> None:
    folder = corpora.ravdess(tmp_path)
    for take in range(13):
        corpora.voice(folder / f"take {take}.wav")
    prepared = prepare_corpus("ravdess", folder, folder / "manifest.csv")
    text = prepared_text(prepared)
    assert sum("take " in line for line in text.splitlines()) == 10
    assert "and 3 more" in text
    assert prepared.problems_file.read_text().count("take ") == 13


def test_a_repaired_corpus_leaves_no_old_list_of_problems(tmp_path: Path) -> None:
    bad = corpora.voice(corpora.ravdess(tmp_path) / "take.wav")
    assert prepare_corpus("ravdess", tmp_path, tmp_path / "manifest.csv").problems_file.exists()
    bad.unlink()
    prepared = prepare_corpus("ravdess", tmp_path, tmp_path / "manifest.csv", overwrite=True)
    assert not prepared.problems_file.exists()
    assert "problems" not in prepared_text(prepared)


def test_what_exists_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    corpora.ravdess(tmp_path / "r")
    prepare_corpus("ravdess", tmp_path / "r", tmp_path / "m.csv")
    before = (tmp_path / "m.csv").read_bytes()
    with pytest.raises(TrainingError, match="exists already"):
        prepare_corpus("ravdess", tmp_path / "r", tmp_path / "m.csv", test_speakers=["01"])
    assert (tmp_path / "m.csv").read_bytes() == before
    prepare_corpus("ravdess", tmp_path / "r", tmp_path / "m.csv", test_speakers=["01"], overwrite=True)
    assert (tmp_path / "m.csv").read_bytes() != before
    with pytest.raises(TrainingError, match="is the input manifest"):
        prepare_corpus("generic", tmp_path / "m.csv", tmp_path / "m.csv", overwrite=True)


@pytest.mark.parametrize(
    ("validation", "test", "reason"),
    [
        (["01"], ["01"], "ravdess_01 cannot be in"),
        (["9"], [], "no speaker 9 here; it has 01, 02, 03, 04"),
        (["01"], ["ravdess_01"], "cannot be in"),
    ],
)
def test_speakers_for_splits_must_exist_and_stand_on_one_side(validation: list[str], test: list[str], reason: str, tmp_path: Path) -> None:
    corpora.ravdess(tmp_path)
    with pytest.raises(TrainingError, match=reason):
        prepare_corpus("ravdess", tmp_path, tmp_path / "manifest.csv", validation_speakers=validation, test_speakers=test)


def test_shared_speakers_are_a_warning_in_a_corpus_that_defines_its_splits_and_refused_elsewhere(tmp_path: Path) -> None:
    folder = corpora.msp_podcast(tmp_path / "msp", {"a_1": "N,7,Male,Train", "a_2": "N,7,Male,Test2", "a_3": "N,8,Male,Test1"})
    prepared = prepare_corpus("msp-podcast", folder, tmp_path / "msp.csv")
    assert "1 speakers stand in more than one" in prepared.warnings[0]
    assert "msp-podcast_7 in test2 and train" in prepared_text(prepared)
    with pytest.raises(TrainingError, match="msp-podcast_7 in test2 and train"):
        prepare_corpus("generic", tmp_path / "msp.csv", tmp_path / "other.csv")
    with pytest.raises(TrainingError, match="its own splits"):
        prepare_corpus("msp-podcast", folder, tmp_path / "other.csv", test_speakers=["7"])


def test_a_manifest_is_taken_over_by_generic(tmp_path: Path) -> None:
    corpora.voice(tmp_path / "data/a.ogg")
    corpora.voice(tmp_path / "data/noise.flac")
    corpora.write(tmp_path / "data/manifest.csv", "path,corpus,speaker,license,extra", "a.ogg,c,s,CC0,1", "noise.flac,c,,CC0,2")
    prepare_corpus("generic", tmp_path / "data", tmp_path / "data/new.jsonl", test_speakers=["s"])
    speaker, noise = read_corpus_manifest(tmp_path / "data/new.jsonl")
    assert (speaker.speaker, speaker.split, noise.speaker, noise.split) == ("s", "test", "", "train")


def test_a_wav_file_written_to_a_pipe_is_whole_though_its_header_knows_no_size(tmp_path: Path) -> None:
    piped = corpora.ravdess(tmp_path) / "Actor_01/03-01-01-01-01-01-01.wav"
    sound = bytearray(piped.read_bytes())
    sound[4:8] = sound[40:44] = b"\xff\xff\xff\xff"
    piped.write_bytes(sound)
    assert not prepare_corpus("ravdess", tmp_path, tmp_path / "manifest.csv").problems


def test_a_name_that_is_no_manifest_is_refused_before_anything_is_heard(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="must end in"):
        prepare_corpus("ravdess", tmp_path / "none", tmp_path / "manifest.json")
    with pytest.raises(TrainingError, match="does not exist"):
        prepare_corpus("ravdess", tmp_path / "none", tmp_path / "manifest.csv")
    with pytest.raises(TrainingError, match="unknown corpus 'timit'; use one of librispeech"):
        prepare_corpus("timit", tmp_path, tmp_path / "manifest.csv")


def test_the_command_prints_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpora.ravdess(tmp_path)
    parser = argparse.ArgumentParser()
    add_prepare_arguments(parser)
    options = parser.parse_args(["ravdess", str(tmp_path), "--validation-speakers", "01,02", "--test-speakers", "03"])
    options.run(options)
    assert f"Wrote {tmp_path / 'manifest.csv'}" in capsys.readouterr().out
    assert Counter(u.split for u in read_corpus_manifest(tmp_path / "manifest.csv")) == {"validation": 6, "test": 3, "train": 3}
    with pytest.raises(TrainingError, match="--out"):
        options.run(parser.parse_args(["generic", str(tmp_path)]))


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
_UTTERANCES = st.builds(
    Utterance,
    path=st.text(string.ascii_letters + " ,;\"'#é", min_size=1, max_size=8).map(lambda name: Path(f"x{name}.wav")),
    corpus=_TEXTS,
    speaker=st.text(st.characters(exclude_categories=["Cs"])),
    gender=st.sampled_from([None, "female", "male"]),
    emotion=st.sampled_from([None, *Emotion]),
    transcript=st.none() | _TEXTS,
    split=st.none() | _TEXTS,
    language=st.none() | _TEXTS,
    license=_TEXTS,
    age=st.none() | st.integers(0, 120),
)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(utterances=st.lists(_UTTERANCES, max_size=4))
def test_a_manifest_reads_back_as_it_was_written(suffix: str, utterances: list[Utterance], tmp_path: Path) -> None:
    placed = [replace(utterance, path=tmp_path / "audio" / utterance.path) for utterance in utterances]
    for utterance in placed:
        utterance.path.parent.mkdir(exist_ok=True)
        utterance.path.touch()
    write_corpus_manifest(tmp_path / f"manifest{suffix}", placed)
    assert read_corpus_manifest(tmp_path / f"manifest{suffix}") == placed


def test_a_manifest_elsewhere_names_its_audio_absolutely_and_one_above_relatively(tmp_path: Path) -> None:
    utterance = Utterance(corpora.voice(tmp_path / "audio/a.wav"), "c", "s", None, None, None, None, None, "CC0")
    write_corpus_manifest(tmp_path / "m.csv", [utterance])
    write_corpus_manifest(tmp_path / "deep/er/m.csv", [utterance])
    assert "\naudio/a.wav," in (tmp_path / "m.csv").read_text()
    assert f"\n{tmp_path}/audio/a.wav," in (tmp_path / "deep/er/m.csv").read_text()
    assert read_corpus_manifest(tmp_path / "m.csv") == read_corpus_manifest(tmp_path / "deep/er/m.csv") == [utterance]
    assert not list(tmp_path.rglob("*.unfinished"))


def test_all_missing_files_are_told_in_one_error(tmp_path: Path) -> None:
    rows = [f"a{n}.wav,c,s,CC0" for n in range(7)]
    manifest = corpora.write(tmp_path / "m.csv", "path,corpus,speaker,license", *rows)
    corpora.voice(tmp_path / "a3.wav")
    with pytest.raises(TrainingError, match=r"line 2: a0\.wav is not there; line 3: .*; and 1 more \(6 of 7 files\)"):
        read_corpus_manifest(manifest)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("m.csv", "path,speaker\n", "no column corpus, license"),
        ("m.csv", "path,corpus,speaker,license,gender\na.wav,c,s,CC0,x\n", "line 2: 'x' is no gender"),
        ("m.csv", "path,corpus,speaker,license,emotion\na.wav,c,s,CC0,angry\n", "line 2: 'angry' is no emotion; use one of A, S"),
        ("m.csv", "path,corpus,speaker,license,age\na.wav,c,s,CC0,old\n", "line 2: 'old' is no age; use whole years, 0 to 120"),
        ("m.csv", "path,corpus,speaker,license,age\na.wav,c,s,CC0,121\n", "line 2: '121' is no age"),
        ("m.csv", "path,corpus,speaker,license\na.wav,c,s,\n", "line 2: license is empty"),
        ("m.csv", "path,corpus,speaker,license\na.wav,c,s,CC0,oh\n", "line 2: more fields than columns"),
        ("m.csv", b"path,corpus,speaker,license\n\xff,c,s,CC0\n", "must be UTF-8"),
        ("m.csv", 'path,corpus,speaker,license\n"a.wav,c,s,CC0\n', "cannot read the manifest"),
        ("m.jsonl", '{"path": "a.wav", "corpus": "c", "license": "CC0"}\n', "line 1: no speaker"),
        ("m.jsonl", '\n{"path": "a.wav", "corpus": "c", "speaker": 7, "license": "CC0"}\n', "line 2: speaker is 7; write it as a text"),
        ("m.jsonl", "[1]\n", "line 1: .* is no JSON object"),
        ("m.jsonl", "{\n", "line 1: .*every line is one JSON object"),
        ("m.txt", "", "must end in .csv or .jsonl"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_line_and_value(name: str, text: str | bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TrainingError, match=reason):
        read_corpus_manifest(tmp_path / name)


def test_a_spreadsheets_mark_short_genders_and_other_columns_are_understood(tmp_path: Path) -> None:
    corpora.voice(tmp_path / "a.wav")
    text = "path,corpus,speaker,gender,license,duration_s\na.wav,c,s,F,CC0,0.3\n"
    (tmp_path / "m.csv").write_text(text, encoding="utf-8-sig")
    assert [u.gender for u in read_corpus_manifest(tmp_path / "m.csv")] == ["female"]


def test_splits_are_chosen_by_name_and_absent_ones_refused_with_those_that_exist() -> None:
    def said(split: str | None, speaker: str) -> Utterance:
        return Utterance(Path("a.wav"), "c", speaker, None, None, None, split, None, "CC0")

    some = [said("train", "s"), said("test1", "t"), said(None, "u")]
    assert of_splits(some, ["train", "test1"]) == some[:2]
    with pytest.raises(TrainingError, match="in the split test9; it has test1, train"):
        of_splits(some, ["train", "test9"])
    with pytest.raises(TrainingError, match="no splits at all"):
        of_splits(some[2:], ["train"])
    require_speaker_disjoint_splits([*some, said("train", ""), said("test1", "")])
    with pytest.raises(TrainingError, match="c s in test1 and train"):
        require_speaker_disjoint_splits([*some, said("test1", "s")])
    with pytest.raises(TrainingError, match="both trained on and held out: s"):
        require_disjoint(some, some[:1])


def test_a_manifest_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    corpora.write(tmp_path / "file", "in the way")
    with pytest.raises(TrainingError, match="cannot write the manifest"):
        write_corpus_manifest(tmp_path / "file/m.csv", [])
    utterance = Utterance(tmp_path / "\udcff.wav", "c", "s", None, None, None, None, None, "CC0")
    with pytest.raises(TrainingError, match="cannot write the manifest"):
        write_corpus_manifest(tmp_path / "m.csv", [utterance])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
