"""The training loop, for real: what it minimises, that nothing but the recipe decides what is learned, and that it survives its ends."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from model.audio import SAMPLE_RATE, read_audio
from model.bundle_format import read_bundle_manifest
from model.encoders import load_encoder
from model.errors import TrainingError
from model.language_model import SpeechLLM
from model.mapper import QPMapper
from tests.support import tiny
from tests.support.corpora import QUICK, write_corpus
from train.corpora.manifest import Utterance, read_corpus_manifest
from train.corpora.splits import CorpusPart
from train.learning.encoder_states import FrameStates
from train.learning.examples import ExampleTokenizer, PhaseExamples
from train.learning.trainer import Trainer, TrainingMaterials, require_whole_weights
from train.recipe import Recipe, to_recipe

Row = dict[str, Any]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones of six speakers."""
    return write_corpus(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a WavLM with random weights."""
    return tiny.wavlm(tmp_path_factory.mktemp("wavlm"))


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its precision for the life of a process; a command is a process, a test is not."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


# One run in this process: a tiny WavLM as the frozen encoder, a tiny Llama, twelve clips.


def recipe(loop: Mapping[str, Any] | None = None, **phase: Any) -> Recipe:
    """One phase of mapper and LoRA on speech, twelve examples a step."""
    values = tomllib.loads(QUICK)
    values["encoder"] = {"source": "given"}
    values["loop"] |= dict(loop or {})
    adapter = {"name": "adapter", "trainable": ["mapper", "lora"], "tasks": ["asr", "ser", "joint"], "batch": 12, "warmup": 0.1}
    lengths = {} if "epochs" in phase else {"steps": 3}
    values["phases"] = [adapter | {"learning_rate": 3e-3, "weight_decay": 0.01} | lengths | phase]
    return to_recipe(values, "given")


@dataclass(frozen=True)
class Run:
    """A finished or broken run in its folder."""

    folder: Path

    @property
    def rows(self) -> list[Row]:
        """What log.jsonl holds."""
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        """Loss of each step."""
        return [row["loss"] for row in self.rows]

    @property
    def checkpoints(self) -> dict[str, dict[str, Tensor]]:
        """Trained weights of each whole checkpoint."""
        return {path.name: load_file(path / "trained.safetensors") for path in sorted((self.folder / "checkpoints").glob("phase-*"))}


def clips(manifest: Path) -> list[Utterance]:
    """One of each speaker and letter, without the last two speakers."""
    return [u for u in read_corpus_manifest(manifest) if u.path.stem.endswith("-0") and u.speaker < "t4"]


def materials(wavlm: Path, utterances: list[Utterance], kept: Path | None = None, dropout: bool = True) -> TrainingMaterials:
    """The same random weights each time, large enough that what is heard makes a difference to what is said."""
    llm = SpeechLLM(tiny.llama(), tiny.tokenizer())
    with torch.no_grad():
        for name, weight in llm.named_parameters():
            weight.mul_(5.0 if "_proj" in name else 1.0)
    torch.manual_seed(0)
    llm.add_lora(4, 8)
    mapper = QPMapper(48, llm.hidden_size, queries=4, layers=1, heads=4, width=32)
    for module in mapper.modules() if not dropout else ():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return TrainingMaterials([CorpusPart("tones", 1, utterances)], FrameStates(load_encoder(str(wavlm)), kept), mapper, llm, None)


def fitted(a_recipe: Recipe, made: TrainingMaterials, folder: Path, accelerator: Accelerator | None = None) -> Run:
    """Train to the end."""
    Trainer(a_recipe, made, folder, 0, accelerator).run()
    return Run(folder)


def gradients(a_recipe: Recipe, made: TrainingMaterials, folder: Path) -> Tensor:
    """The gradient of the first step over everything that learns, before it is clipped."""
    found: dict[str, Tensor] = {}
    network = nn.ModuleDict({"mapper": made.mapper, "llm": made.llm})
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(True).register_post_accumulate_grad_hook(lambda p, name=name: found.update({name: p.grad.clone()}))
    fitted(a_recipe, made, folder)
    return torch.cat([found[name].flatten() for name in sorted(found)])


def test_the_gradient_depends_neither_on_micro_batches_nor_on_order(
    manifest: Path, wavlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(size: int) -> Tensor:
        made = materials(wavlm, clips(manifest), dropout=False)
        return gradients(recipe({"micro_batch": size}, steps=1, letter_weight=3.0), made, tmp_path / f"{time.monotonic_ns()}")

    whole = cut(12)
    assert whole.norm() > 0.1
    for size in (2, 6):
        assert (cut(size) - whole).norm() / whole.norm() < 1e-5
    in_order = PhaseExamples.batch
    monkeypatch.setattr(PhaseExamples, "batch", lambda plan, step: sorted(in_order(plan, step), key=lambda example: example.seed))
    assert (cut(12) - whole).norm() / whole.norm() < 1e-5


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_the_answer_s_tokens(manifest: Path, wavlm: Path, tmp_path: Path) -> None:
    utterances, a_recipe = clips(manifest), recipe(steps=1)
    made, phase = materials(wavlm, utterances, dropout=False), a_recipe.phases[0]
    phrasing = ExampleTokenizer(made.llm.tokenizer, a_recipe.letters, phase, None)
    embed = made.llm.llm.get_input_embeddings()
    total, tokens = 0.0, 0
    for example in PhaseExamples(phase, made.parts, a_recipe.letters, "shuffle", 0).batch(0):
        emotion = f"| Emotion: {example.utterance.emotion} |<|end|>"
        words = f"| ASR: {example.utterance.transcript} "
        answer = {"asr": words + "|<|end|>", "ser": emotion, "joint": words + emotion}[example.task]
        prompt, ids = phrasing.asked(example).prompt, made.llm.tokenizer.encode(answer)
        speech = made.mapper(*made.hearing.encoder([torch.from_numpy(read_audio(example.utterance.path))]))
        ends = [embed(torch.tensor([part])) for part in (prompt.before, (*prompt.after, *ids))]
        logits = made.llm.llm(inputs_embeds=torch.cat([ends[0], speech, ends[1]], dim=1)).logits[0]
        total += float(nn.functional.cross_entropy(logits[-len(ids) - 1 : -1], torch.tensor(ids), reduction="sum"))
        tokens += len(ids)
    with torch.enable_grad():
        run = fitted(a_recipe, made, tmp_path)
    assert run.losses == pytest.approx([total / tokens], rel=1e-5)


def test_micro_batches_hold_clips_of_like_length(manifest: Path, wavlm: Path, tmp_path: Path) -> None:
    made = materials(wavlm, clips(manifest))
    heard: list[list[int]] = []
    made.hearing.encoder.register_forward_pre_hook(lambda _, inputs: heard.append([len(clip) for clip in inputs[0]]))
    fitted(recipe({"micro_batch": 3}, steps=1), made, tmp_path)
    assert [len(micro) for micro in heard] == [3, 3, 3, 3]
    lengths = [length for micro in heard for length in micro]
    assert lengths == sorted(lengths)
    assert heard[0][0] < heard[-1][-1]


@pytest.mark.parametrize("loop", [{}, {"gradient_checkpointing": True}, {"precision": "bf16"}])
def test_it_learns_in_every_way_of_running(manifest: Path, wavlm: Path, tmp_path: Path, loop: dict[str, Any]) -> None:
    few = [u for u in clips(manifest) if u.speaker == "t0"]
    run = fitted(recipe(loop, steps=16, batch=6, learning_rate=1e-2), materials(wavlm, few), tmp_path)
    assert all(math.isfinite(loss) for loss in run.losses)
    # The random language model itself stays frozen, so this is what a small adapter can do.
    assert np.mean(run.losses[-3:]) < 0.92 * run.losses[0]


def test_gradient_checkpointing_changes_no_loss(manifest: Path, wavlm: Path, tmp_path: Path) -> None:
    runs = [
        fitted(recipe({"gradient_checkpointing": on}), materials(wavlm, clips(manifest)), tmp_path / str(on)).losses for on in (False, True)
    ]
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)


def test_tensorboard_has_every_step_of_the_log(manifest: Path, wavlm: Path, tmp_path: Path) -> None:
    run = fitted(recipe(), materials(wavlm, clips(manifest)), tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard" / "phase-0")).Reload()
    for name in ("loss", "learning_rate"):
        shown = [event.value for event in board.Scalars(name)]
        assert shown == pytest.approx([row[name] for row in run.rows], rel=1e-6)


def test_a_gradient_beyond_all_numbers_stops_the_run(manifest: Path, wavlm: Path, tmp_path: Path) -> None:
    made = materials(wavlm, clips(manifest))
    with torch.no_grad():
        for name, weight in made.llm.named_parameters():
            weight.mul_(1e30 if "lora_A" in name else 1.0)  # nothing for the loss, since B is still zero
    with pytest.raises(TrainingError, match=r"the gradient of phase adapter is not a number at step 1; .*there is no checkpoint yet"):
        fitted(recipe(), made, tmp_path)


def test_kept_states_are_made_once_and_say_the_same(manifest: Path, wavlm: Path, tmp_path: Path) -> None:
    def heard(kept: Path | None, folder: str) -> tuple[list[float], int]:
        made, asked = materials(wavlm, clips(manifest), kept), []
        made.hearing.encoder.register_forward_pre_hook(lambda _, inputs: asked.extend(inputs[0]))
        return fitted(recipe(epochs=3), made, tmp_path / folder).losses, len(asked)

    plain, asked = heard(None, "plain")
    assert (len(plain), asked) == (3, 36)
    first, asked = heard(tmp_path / "states", "first")
    assert asked == 12
    assert first == pytest.approx(plain, rel=1e-3)
    assert heard(tmp_path / "states", "second") == (first, 0), "the first pass has seen what is on disk"
    files = sorted((tmp_path / "states").rglob("*.safetensors"))
    assert len(files) == 12
    again = materials(wavlm, clips(manifest), tmp_path / "states")
    examples = PhaseExamples(recipe().phases[0], again.parts, [], "shuffle", 0).batch(0)
    exact = FrameStates(again.hearing.encoder, None).hear(examples).states
    assert again.hearing.hear(examples).states.numpy() == pytest.approx(exact.numpy(), rel=1e-3, abs=1e-4)
    files[0].write_bytes(files[0].read_bytes()[:200])
    files[1].write_bytes(b"")
    repaired, asked = heard(tmp_path / "states", "third")
    assert asked == 2
    assert repaired == pytest.approx(first, rel=1e-3)


def test_a_clip_that_is_not_a_number_stops_the_run_and_is_named(manifest: Path, wavlm: Path, tmp_path: Path) -> None:
    shutil.copytree(manifest.parent, tmp_path / "tones")
    utterances = [u for u in read_corpus_manifest(tmp_path / "tones" / manifest.name) if u.speaker < "t3"]
    a_recipe = recipe({"checkpoint_steps": 1})
    plan = PhaseExamples(a_recipe.phases[0], [CorpusPart("tones", 1, utterances)], a_recipe.letters, "shuffle", 0)
    broken = plan.batch(1)[0].utterance.path
    samples, _ = soundfile.read(broken)
    soundfile.write(broken, np.where(np.arange(len(samples)) % 1000 == 0, np.nan, samples), SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(TrainingError, match="the loss of phase adapter is not a number at step 2") as stopped:
        fitted(a_recipe, materials(wavlm, utterances), tmp_path / "run")
    assert str(broken) in str(stopped.value)
    assert "phase-0-step-0000001" in str(stopped.value)
    _require_finite(Run(tmp_path / "run"), ["phase-0-step-0000001"])
    soundfile.write(broken, samples, SAMPLE_RATE)
    assert len(fitted(a_recipe, materials(wavlm, utterances), tmp_path / "run").rows) == 3


def test_an_absurd_learning_rate_stops_before_it_reaches_a_checkpoint(manifest: Path, wavlm: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"of phase adapter is not a number at step \d+; .*lower learning_rate"):
        fitted(recipe({"checkpoint_steps": 1}, learning_rate=1e20, steps=6), materials(wavlm, clips(manifest)), tmp_path)
    _require_finite(Run(tmp_path))


def _require_finite(run: Run, names: list[str] | None = None) -> None:
    checkpoints = run.checkpoints
    assert checkpoints
    assert names is None or list(checkpoints) == names
    for weights in checkpoints.values():
        assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


def test_a_run_goes_on_over_what_a_crash_leaves_and_beside_another_run(manifest: Path, wavlm: Path, tmp_path: Path) -> None:
    a_recipe = recipe({"checkpoint_steps": 2}, steps=5, average_last=0.6)
    whole = fitted(a_recipe, materials(wavlm, clips(manifest)), tmp_path / "whole")
    stopped = Run(shutil.copytree(whole.folder, tmp_path / "stopped"))
    shutil.rmtree(stopped.folder / "checkpoints" / "phase-0-step-0000005-finished")
    unfinished = stopped.folder / "checkpoints" / ".phase-0-step-0000005-finished"
    unfinished.mkdir()
    (unfinished / "state.json").write_text("")
    with (stopped.folder / "log.jsonl").open("a") as file:
        file.write('{"number": 0, "ph')
    accelerator = Accelerator()
    fitted(a_recipe, materials(wavlm, clips(manifest)), tmp_path / "other", accelerator)
    fitted(a_recipe, materials(wavlm, clips(manifest)), stopped.folder, accelerator)
    assert stopped.rows == whole.rows
    name = "phase-0-step-0000005-finished"
    for key, weight in whole.checkpoints[name].items():
        assert torch.equal(stopped.checkpoints[name][key], weight)


# Whole runs, as processes.


@dataclass(frozen=True)
class Command:
    """`python -m train train` in one folder."""

    folder: Path
    manifest: Path
    recipe: str = QUICK

    @property
    def arguments(self) -> list[str]:
        """After the interpreter's own options."""
        (self.folder / "quick.toml").write_text(self.recipe)
        options = {"--recipe": "quick.toml", "--manifest": self.manifest, "--work": "work", "--out": "bundle"}
        return ["-m", "train", "train", *(str(text) for pair in options.items() for text in pair)]

    def start(self, *before: str, largest_file: int | None = None) -> "subprocess.Popen[str]":
        """Begin, or go on. before: a launcher; largest_file: bytes, as if the disk were full beyond."""

        def limit() -> None:
            # Whoever runs the tests in the background may have had it ignored, and children inherit that.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        return subprocess.Popen(
            [sys.executable, "-P", *before, *self.arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=limit,
        )

    def finish(self) -> "Command":
        """To the end, with success."""
        process = self.start()
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        return self

    @property
    def run(self) -> Run:
        """Its only run."""
        (folder,) = (self.folder / "work").glob("quick-*")
        return Run(folder)

    def until_step(self, process: "subprocess.Popen[str]", step: int) -> None:
        """Wait until the second phase has logged this many steps."""
        deadline = time.monotonic() + 240
        while not any(self._steps(path) >= step for path in (self.folder / "work").glob("quick-*/log.jsonl")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.005)

    @staticmethod
    def _steps(log: Path) -> int:
        return log.read_text().count('"phase": "adapter"')

    @property
    def files(self) -> tuple[str, Mapping[str, str]]:
        """The released bundle: its version, and its files with their hashes."""
        manifest = read_bundle_manifest(self.folder / "bundle")
        return manifest.version, manifest.files


@pytest.fixture(scope="module")
def uninterrupted(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A run that nothing happened to."""
    return Command(tmp_path_factory.mktemp("uninterrupted"), manifest).finish()


@pytest.mark.slow
def test_a_run_that_is_interrupted_killed_and_out_of_disk_ends_as_one_that_was_not(
    manifest: Path, tmp_path: Path, uninterrupted: Command
) -> None:
    command = Command(tmp_path, manifest)
    process = command.start()
    command.until_step(process, 6)
    process.send_signal(signal.SIGINT)
    _require_told(process, 130, "run the same command again to resume from the last checkpoint")
    assert command.run.checkpoints.keys() >= {"phase-1-step-0000004"}

    process = command.start()
    command.until_step(process, 18)  # the averages begin with step 13
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    before = command.run.checkpoints
    assert max(before) in {"phase-1-step-0000016", "phase-1-step-0000020", "phase-1-step-0000024"}

    process = command.start(largest_file=60_000)
    folder = f"{command.run.folder.relative_to(tmp_path)}/checkpoints"
    _require_told(process, 1, f"no room for a checkpoint in {folder} ", f"the last good checkpoint is {folder}/{max(before)}")
    assert command.run.checkpoints.keys() == before.keys()
    assert not list((tmp_path / folder).glob(f".{max(before)}*"))

    command.finish()
    assert command.run.rows == uninterrupted.run.rows
    assert command.files == uninterrupted.files


def _require_told(process: "subprocess.Popen[str]", status: int, *messages: str) -> None:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == status, output
    assert "Traceback" not in output
    for message in messages:
        assert message in output


# Not `accelerate launch --cpu`, which starts one process whatever --num_processes says.
_TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.slow
def test_two_processes_learn_the_same_as_one(manifest: Path, tmp_path: Path, uninterrupted: Command) -> None:
    both = Command(tmp_path, manifest)
    output, _ = (process := both.start(*_TWO_PROCESSES)).communicate(timeout=300)
    assert process.returncode == 0, output
    one = uninterrupted.run.rows
    assert [(row["phase"], row["step"]) for row in both.run.rows] == [(row["phase"], row["step"]) for row in one]
    assert both.run.losses == pytest.approx([row["loss"] for row in one], rel=1e-4)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_into_the_processes_is_refused(manifest: Path, tmp_path: Path) -> None:
    command = Command(tmp_path, manifest, QUICK.replace("micro_batch = 6", "micro_batch = 12"))
    output, _ = (process := command.start(*_TWO_PROCESSES)).communicate(timeout=300)
    assert process.returncode == 1
    assert "phase base: a batch of 12 does not divide into 2 processes with micro-batches of 12; lower [loop] micro_batch" in output
    assert not list((tmp_path / "work").iterdir()), "nothing was begun"


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_sharded_weights_are_refused_with_what_to_use_instead(kind: DistributedType) -> None:
    # Accelerate shards on accelerators only, so a machine without one cannot be brought into this state.
    with pytest.raises(TrainingError, match="--multi_gpu"):
        require_whole_weights(kind)
    require_whole_weights(DistributedType.MULTI_GPU)
