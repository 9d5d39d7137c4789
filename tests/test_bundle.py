"""Bundles: what was written comes back, and what is damaged, foreign or does not fit is refused with the reason."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.bundle import load_llm, open_bundle
from model.errors import BundleError
from model.manifest import MANIFEST, digests, find_bundle, read_manifest, verify, version_of
from model.types import Emotion
from tests.bundles import NANO


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(find_bundle("compact"), tmp_path / "bundle")
    return tmp_path / "bundle"


def _rewrite(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_the_built_in_bundle_is_whole_small_and_says_what_it_is() -> None:
    folder = find_bundle("compact")
    manifest = read_manifest(folder)
    verify(folder, manifest)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 60 * 2**20
    assert manifest.version == version_of("compact", manifest.files)
    assert manifest.license == "CC-BY-NC-SA-4.0"
    assert "NonCommercial" in (folder / "LICENSE").read_text()
    assert not {Emotion.CONTEMPT, Emotion.OTHER} & set(manifest.letters)
    assert any("contempt" in limit for limit in manifest.limits)
    score = next(score for score in manifest.scores if "ravdess_17" in score.split)
    assert score.unweighted_accuracy >= 0.65
    assert score.conditions
    assert score.outliers["ESC-10"] < 0.1
    assert f"{score.unweighted_accuracy:.3f}" in (folder / "README.md").read_text()
    assert score.interval_95[0] < score.unweighted_accuracy < score.interval_95[1]


def test_the_bundle_that_was_built_in_before_still_opens_and_its_name_now_means_this_one() -> None:
    former = open_bundle(NANO)
    assert (former.manifest.version, former.reference_settings, former.manifest.training_prior) == ("nano-7defb358", None, None)
    assert former.speech_embeds([torch.zeros(16000)]).shape[:2] == (1, 32)
    assert find_bundle("nano") == find_bundle("compact")


def test_its_parts_are_those_of_the_paper() -> None:
    bundle = open_bundle(find_bundle("compact"))
    llm = load_llm(bundle)
    assert bundle.mapper.settings["queries"] == 32
    assert llm.llm.peft_config["default"].r == 8
    assert bundle.speech_embeds([torch.zeros(16000)]).shape == (1, 32, llm.hidden_size)


def test_letter_biases_move_answers_after_the_temperature_and_only_letters_it_has_may_have_one(copy: Path) -> None:
    _rewrite(copy, letter_bias={"S": 1.5, "N": -0.5}, temperature=2.0)
    plain, biased = open_bundle(find_bundle("compact")), open_bundle(copy)
    log_probs = torch.linspace(-3, 0, len(plain.manifest.letters)).log_softmax(0)
    bias = torch.tensor([{"S": 1.5, "N": -0.5}.get(letter, 0.0) for letter in plain.manifest.letters])
    assert not plain.manifest.letter_bias
    expected = (log_probs.double() / 2 + bias).softmax(0).tolist()
    assert list(biased.prediction(log_probs.tolist()).posterior.values()) == pytest.approx(expected, abs=1e-6)
    raw = list(biased.uncalibrated().prediction(log_probs.tolist()).posterior.values())
    assert raw == pytest.approx(log_probs.exp().tolist(), abs=1e-6)
    for wrong in ({"C": 1.0}, {"S": "much"}, {"S": float("inf")}):
        _rewrite(copy, letter_bias=wrong)
        with pytest.raises(BundleError, match="letter_bias"):
            open_bundle(copy)


def _truncate(folder: Path) -> None:
    (folder / "mapper.safetensors").write_bytes((folder / "mapper.safetensors").read_bytes()[:-8])


def _flip(folder: Path) -> None:
    data = bytearray((folder / "llm/model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "llm/model.safetensors").write_bytes(bytes(data))


def _remove(folder: Path) -> None:
    (folder / "adapter/adapter_config.json").unlink()


def _add_pickle(folder: Path) -> None:
    (folder / "llm/pytorch_model.bin").write_bytes(pickle.dumps({}))


def _link(folder: Path) -> None:
    target = folder.parent / "elsewhere"
    (folder / "mapper.safetensors").rename(target)
    (folder / "mapper.safetensors").symlink_to(target)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "mapper.safetensors is not the file"),
        (_flip, "llm/model.safetensors is not the file"),
        (_remove, "adapter_config.json is missing"),
        (_add_pickle, "does not belong"),
        (_link, "does not belong"),
        (lambda folder: (folder / MANIFEST).unlink(), "cannot read"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "not a bundle"),
        (lambda folder: _rewrite(folder, format=2), "format"),
        (lambda folder: _rewrite(folder, letters=["A", "X"]), "letters"),
        (lambda folder: _rewrite(folder, temperature=0), "temperature"),
        (lambda folder: _rewrite(folder, surprise=1), "surprise"),
        (lambda folder: _rewrite(folder, mapper={"queries": 16, "layers": 2, "heads": 8, "width": 128}), "does not fit"),
    ],
)
def test_what_is_damaged_is_refused(copy: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(copy)
    with pytest.raises(BundleError, match=reason):
        open_bundle(copy)


def test_a_mapper_for_another_language_model_is_refused(copy: Path) -> None:
    weights = load_file(copy / "mapper.safetensors")
    weights["leave.weight"], weights["leave.bias"] = weights["leave.weight"][:64].clone(), weights["leave.bias"][:64].clone()
    save_file(weights, copy / "mapper.safetensors")
    _rewrite(copy, files=digests(copy))
    with pytest.raises(BundleError, match="vectors of 64"):
        load_llm(open_bundle(copy))


def test_an_adapter_for_another_language_model_is_refused(copy: Path) -> None:
    weights = load_file(copy / "adapter/adapter_model.safetensors")
    save_file({name: tensor[:, :-1].clone() for name, tensor in weights.items()}, copy / "adapter/adapter_model.safetensors")
    _rewrite(copy, files=digests(copy))
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_llm(open_bundle(copy))


def test_a_name_that_is_no_bundle_is_answered_with_those_there_are() -> None:
    with pytest.raises(BundleError, match="built-in: compact"):
        find_bundle("no-such-bundle")
