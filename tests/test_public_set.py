"""The clips that come with packaged: enough of every emotion, from voices that are rehearsed and others that are measured with."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model.bundle import Bundle, load_llm
from model.errors import BundleError
from model.manifest import PUBLIC_SET, find_bundle
from train.asking import from_states
from train.public_set import read_public_set


def test_nano_brings_enough_of_every_emotion_from_voices_that_are_kept_apart(packaged: Bundle) -> None:
    public = read_public_set(packaged.folder)
    measured, rehearsed = public.measured_with, [clip for clip in public.rehearsed if clip.emotion]
    assert not {clip.speaker for clip in measured} & {clip.speaker for clip in rehearsed}
    assert len({clip.speaker for clip in measured}) >= 10
    for clips in (measured, rehearsed):
        assert min(Counter(clip.emotion for clip in clips).values()) >= 20
        assert {clip.emotion for clip in clips} == set(packaged.manifest.letters)
    assert any(clip.emotion is None for clip in public.rehearsed)
    assert (public.temperature, public.unsure_below) == (packaged.manifest.temperature, packaged.manifest.unsure_below)
    assert not any(clip.speaker in ("ravdess_17", "ravdess_18", "ravdess_19", "ravdess_20") for clip in public.clips)


def test_what_the_bundle_answered_is_what_it_answers(packaged: Bundle) -> None:
    clips = read_public_set(packaged.folder).clips[::40]
    found = from_states(packaged.uncalibrated(), load_llm(packaged), [clip.states for clip in clips], [clip.sound for clip in clips])
    for clip, prediction in zip(clips, found, strict=True):
        assert torch.tensor(list(prediction.posterior.values())) == pytest.approx(clip.posterior, abs=1e-3)


def test_a_bundle_without_one_or_with_a_damaged_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no public\.safetensors"):
        read_public_set(tmp_path)
    (tmp_path / PUBLIC_SET).write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError, match="is damaged"):
        read_public_set(tmp_path)
    with safe_open(find_bundle("compact") / PUBLIC_SET, "pt") as whole:
        tensors = {name: whole.get_tensor(name) for name in whole.keys()}  # noqa: SIM118
        told = json.loads(whole.metadata()["told"])
    told["clips"].pop()
    save_file(tensors, tmp_path / PUBLIC_SET, {"told": json.dumps(told)})
    with pytest.raises(BundleError, match="is damaged"):
        read_public_set(tmp_path)
