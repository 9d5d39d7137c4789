"""Another audio language model in the evaluation: a real vLLM server with a tiny Qwen2-Audio, asked over HTTP.

Only the faults that vLLM cannot be made to produce come from a server of the standard library.
"""

import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from model.audio import SAMPLE_RATE, read_audio
from model.emotions import Emotion
from model.errors import EngineRejected, EngineUnavailable, FormatError, TrainingError
from tests.support.servers import Server, vllm_server
from tests.support.tiny_audio_models import qwen_audio
from train.corpora.manifest import Utterance
from train.evaluation.served_models import INSTRUCTION, KNOWN_PARAMETERS, ServedAnswer, ServedModel, clip_hash, read_letter, wav_base64

NAME = "tiny-qwen-audio"
CLIPS = 12


def _utterance(path: Path) -> Utterance:
    return Utterance(path, "tones", "t0", None, Emotion.SAD, None, "test", None, "CC0-1.0")


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Tones in noise, from 0.6 s at 100 Hz to 1.7 s at 4 kHz."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for number in range(CLIPS):
        seconds = np.arange(int(SAMPLE_RATE * (0.6 + 0.1 * number))) / SAMPLE_RATE
        tone = 0.3 * np.sin(2 * np.pi * 100 * 1.4**number * seconds)
        soundfile.write(folder / f"{number:02}.wav", tone + rng.normal(scale=0.02 * number, size=len(seconds)), SAMPLE_RATE)
    return [_utterance(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen2-Audio."""
    return qwen_audio(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Server]:
    """A real vLLM server for it."""
    arguments = ("--model", str(folder), "--served-model-name", NAME, "--max-model-len", "2048", "--limit-mm-per-prompt", '{"audio": 1}')
    with vllm_server(arguments, folder / "server.log") as running:
        yield running


@pytest.fixture(scope="module")
def answers(served: Server, utterances: list[Utterance]) -> list[ServedAnswer]:
    """What the server says of all clips, one at a time."""
    return ServedModel(served.url, NAME, served.key, parallel=1).answer(utterances)


def _letter(answer: ServedAnswer) -> Emotion:
    assert answer.posterior is not None
    return max(answer.posterior, key=lambda emotion: answer.posterior[emotion])


def _table(answers: list[ServedAnswer]) -> np.ndarray:
    return np.array([[answer.posterior[emotion] for emotion in Emotion] for answer in answers])


@pytest.mark.slow
def test_every_clip_is_answered_in_order_with_a_posterior_over_the_nine_letters(
    answers: list[ServedAnswer], utterances: list[Utterance]
) -> None:
    assert [answer.utterance for answer in answers] == utterances
    for answer in answers:
        assert set(answer.posterior) == set(Emotion)
        assert sum(answer.posterior.values()) == pytest.approx(1.0)
    assert len({_letter(answer) for answer in answers}) >= 3, "the sound decides, not the instruction alone"


@pytest.mark.slow
def test_the_posteriors_are_those_of_transformers_for_the_same_clips_and_instruction(
    answers: list[ServedAnswer], utterances: list[Utterance], folder: Path
) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen2AudioForConditionalGeneration.from_pretrained(folder).eval()
    content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": INSTRUCTION}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    letters = [processor.tokenizer.convert_tokens_to_ids(str(emotion)) for emotion in Emotion]
    expected = []
    for utterance in utterances:
        inputs = processor(text=prompt, audio=[read_audio(utterance.path)], sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.no_grad():
            expected.append(model(**inputs).logits[0, -1, letters].softmax(-1).numpy())
    assert np.abs(_table(answers) - np.array(expected)).max() < 0.01


@pytest.mark.slow
def test_requests_in_flight_together_and_repeated_get_the_same_answers(
    served: Server, answers: list[ServedAnswer], utterances: list[Utterance]
) -> None:
    model = ServedModel(served.url, NAME, served.key, parallel=8)
    assert not model.has_probabilities, "nothing was asked yet"
    for _ in range(2):
        assert np.abs(_table(model.answer(utterances)) - _table(answers)).max() < 1e-3
        assert model.has_probabilities


@pytest.mark.slow
def test_a_run_continued_from_its_progress_file_asks_only_what_is_missing(
    served: Server, answers: list[ServedAnswer], utterances: list[Utterance], tmp_path: Path
) -> None:
    progress = tmp_path / "progress.jsonl"
    model = ServedModel(f"{served.url}/v1/", NAME, served.key)
    model.answer(utterances[:5], progress)
    text = progress.read_text()
    assert not any(secret in text for secret in (utterances[0].path.name, str(utterances[0].path.parent), "RIFF"))
    asked_before = _requests_answered(served)
    continued = model.answer(utterances, progress)
    assert _requests_answered(served) - asked_before == CLIPS - 5
    assert np.abs(_table(continued) - _table(answers)).max() < 1e-3
    assert model.has_probabilities
    dead = ServedModel(f"http://127.0.0.1:{_free_port()}", NAME)
    assert dead.answer(utterances, progress) == continued, "nothing is missing, so no server is needed"
    assert dead.has_probabilities


def _requests_answered(served: Server) -> float:
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:request_success_total"))


@pytest.mark.slow
def test_an_answer_cut_off_in_writing_is_asked_again(served: Server, utterances: list[Utterance], tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    model = ServedModel(served.url, NAME, served.key)
    whole = model.answer(utterances[:3], progress)
    progress.write_bytes(progress.read_bytes()[:-40])
    before = _requests_answered(served)
    assert np.abs(_table(model.answer(utterances[:3], progress)) - _table(whole)).max() < 1e-3
    assert _requests_answered(served) - before == 1
    assert len([json.loads(line) for line in progress.read_text().splitlines()]) == 1 + 3


@pytest.mark.slow
def test_a_progress_file_of_another_model_is_refused_and_left_as_it_is(served: Server, utterances: list[Utterance], tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    for content in ('{"model": "another", "instruction": "0"}\n', "notes without a newline"):
        progress.write_text(content)
        with pytest.raises(TrainingError, match="something else"):
            ServedModel(served.url, NAME, served.key).answer(utterances, progress)
        assert progress.read_text() == content


@pytest.mark.slow
def test_a_damaged_progress_line_is_named(served: Server, utterances: list[Utterance], tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    model = ServedModel(served.url, NAME, served.key)
    model.answer(utterances[:1], progress)
    progress.write_text(progress.read_text() + '{"clip": 1}\n')
    with pytest.raises(TrainingError, match="line 3"):
        model.answer(utterances[:1], progress)


def test_a_progress_file_in_a_missing_folder_is_refused_before_anything_is_asked(utterances: list[Utterance], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be used"):
        ServedModel("http://127.0.0.1:9", NAME).answer(utterances, tmp_path / "none" / "progress.jsonl")


@pytest.mark.slow
def test_a_wrong_model_name_is_answered_with_those_served(served: Server, utterances: list[Utterance]) -> None:
    with pytest.raises(EngineRejected, match=f"does not serve 'nobody' but {NAME}"):
        ServedModel(served.url, "nobody", served.key).answer(utterances)


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_wrong_key_names_the_two_places_for_it(served: Server, utterances: list[Utterance], key: str | None) -> None:
    with pytest.raises(EngineRejected, match="EMOSLLM_API_KEY or name a file with --key-file"):
        ServedModel(served.url, NAME, key).answer(utterances)


def test_a_port_where_nobody_listens_is_told_as_such(utterances: list[Utterance]) -> None:
    with pytest.raises(EngineUnavailable, match="ConnectError"):
        ServedModel(f"http://127.0.0.1:{_free_port()}", NAME, attempts=2).answer(utterances)


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(EngineRejected, match="http://HOST:PORT"):
        ServedModel("localhost:8000", NAME)


@pytest.mark.slow
def test_a_clip_that_the_model_refuses_is_named_and_the_others_are_kept(
    served: Server, utterances: list[Utterance], tmp_path: Path
) -> None:
    short, progress = tmp_path / "short.wav", tmp_path / "progress.jsonl"
    soundfile.write(short, np.zeros(160), SAMPLE_RATE)
    with pytest.raises(EngineRejected, match=r"status 400 for .*short\.wav: .*too short"):
        ServedModel(served.url, NAME, served.key, parallel=1).answer([*utterances[:2], _utterance(short)], progress)
    kept = {json.loads(line)["clip"] for line in progress.read_text().splitlines()[1:]}
    assert kept == {clip_hash(utterance.path) for utterance in utterances[:2]}


@pytest.mark.slow
def test_a_file_that_is_no_sound_is_told_as_such(served: Server, tmp_path: Path) -> None:
    (tmp_path / "words.wav").write_text("no sound")
    with pytest.raises(FormatError, match=r"words\.wav is not audio"):
        ServedModel(served.url, NAME, served.key).answer([_utterance(tmp_path / "words.wav")])


@pytest.mark.slow
def test_the_number_of_parameters_is_the_stated_one_and_unknown_for_an_unknown_checkpoint(served: Server) -> None:
    model = ServedModel(served.url, NAME, served.key)
    assert model.parameter_count(8.4e9) == 8_400_000_000
    assert model.parameter_count() is None
    with pytest.raises(TrainingError, match=r"8\.4 is no number of parameters"):
        model.parameter_count(8.4)


def test_a_clip_is_sent_as_16_khz_mono_int16(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "stereo.flac", np.full((44100, 2), 0.25), 44100)
    sent = io.BytesIO(base64.b64decode(wav_base64(tmp_path / "stereo.flac")))
    info = soundfile.info(sent)
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (SAMPLE_RATE, 1, "PCM_16", SAMPLE_RATE)
    sent.seek(0)
    assert np.median(soundfile.read(sent)[0]) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("A", Emotion.ANGRY),
        (" u.\n", Emotion.SURPRISE),
        ("**(N)**", Emotion.NEUTRAL),
        ("The speaker sounds Happy.", Emotion.HAPPY),
        ("S = sad", Emotion.SAD),
        ("fear, or fear", Emotion.FEAR),
        ("happy or sad", None),
        ("Answer: A", None),
        ("unhappy", None),
        ("X", None),
        ("AS", None),
        ("", None),
    ],
)
def test_an_unrestricted_answer_is_a_lone_letter_or_names_exactly_one_emotion(text: str, emotion: Emotion | None) -> None:
    assert read_letter(text) is emotion


Respond = Callable[[int], tuple[int, str]]


@pytest.fixture
def faulty() -> Iterator[Callable[[Respond], str]]:
    """Starts servers that list NAME and answer the n-th chat request, from 0, with a status and a body."""
    running: list[ThreadingHTTPServer] = []

    def start(respond: Respond) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(respond))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def _handler(respond: Respond) -> type[BaseHTTPRequestHandler]:
    lock, asked = threading.Lock(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200, json.dumps({"data": [{"id": NAME, "root": f"/models/{next(iter(KNOWN_PARAMETERS))}/"}]}))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                asked.append(None)
                status, body = respond(len(asked) - 1)
            if status:
                self._reply(status, body)

        def _reply(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Silent."""

    return Handler


def _completion(text: str | None) -> tuple[int, str]:
    return 200, json.dumps({"choices": [{"message": {"content": text}, "logprobs": None}]})


def test_answers_without_probabilities_are_one_hot_and_what_names_no_emotion_is_none(
    faulty: Callable[[Respond], str], utterances: list[Utterance], tmp_path: Path
) -> None:
    said = ["angry!", "I cannot tell.", None]
    model = ServedModel(faulty(lambda number: _completion(said[number])), NAME, parallel=1)
    first, second, third = model.answer(utterances[:3], tmp_path / "progress.jsonl")
    assert first.posterior == {emotion: float(emotion is Emotion.ANGRY) for emotion in Emotion}
    assert second.posterior is None
    assert third.posterior is None
    assert not model.has_probabilities
    assert model.answer(utterances[:3], tmp_path / "progress.jsonl") == [first, second, third]
    assert not model.has_probabilities


@pytest.mark.parametrize("fault", [(429, ""), (500, "oops"), (0, "")], ids=["busy", "broken", "connection lost"])
def test_a_passing_fault_is_tried_again(faulty: Callable[[Respond], str], utterances: list[Utterance], fault: tuple[int, str]) -> None:
    url = faulty(lambda number: fault if number == 0 else _completion("N"))
    (answer,) = ServedModel(url, NAME).answer(utterances[:1])
    assert _letter(answer) is Emotion.NEUTRAL


def test_a_lasting_fault_ends_the_run_and_the_next_continues_it(
    faulty: Callable[[Respond], str], utterances: list[Utterance], tmp_path: Path
) -> None:
    progress = tmp_path / "progress.jsonl"
    broken = faulty(lambda number: _completion("F") if number < 2 else (503, ""))
    with pytest.raises(EngineUnavailable, match="status 503, 2 times"):
        ServedModel(broken, NAME, parallel=1, attempts=2).answer(utterances[:4], progress)
    mended = faulty(lambda number: _completion("D") if number < 2 else (500, "asked too often"))
    answers = ServedModel(mended, NAME, attempts=1).answer(utterances[:4], progress)
    assert [_letter(answer) for answer in answers] == [Emotion.FEAR, Emotion.FEAR, Emotion.DISGUST, Emotion.DISGUST]


@pytest.mark.parametrize("body", ["<html>", "{}", '{"choices": []}', '{"choices": [{}]}', "[1]", '{"choices": [{"logprobs": 5}]}'])
def test_what_is_no_chat_completion_is_told_as_such(faulty: Callable[[Respond], str], utterances: list[Utterance], body: str) -> None:
    with pytest.raises(EngineRejected, match="no chat completion"):
        ServedModel(faulty(lambda _: (200, body)), NAME).answer(utterances[:1])


def test_a_refusal_that_quotes_the_request_is_shown_without_the_sound(
    faulty: Callable[[Respond], str], utterances: list[Utterance]
) -> None:
    sound = wav_base64(utterances[0].path)
    url = faulty(lambda _: (422, json.dumps({"error": {"message": f"bad input {sound}, unknown field"}})))
    with pytest.raises(EngineRejected, match=r"status 422 for .*00\.wav: bad input \.\.\., unknown field"):
        ServedModel(url, NAME).answer(utterances[:1])


def test_a_known_checkpoint_tells_its_number_of_parameters(faulty: Callable[[Respond], str]) -> None:
    assert ServedModel(faulty(lambda _: (500, "")), NAME).parameter_count() == KNOWN_PARAMETERS["Qwen2-Audio-7B-Instruct"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
