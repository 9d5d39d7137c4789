"""Adapters that clients upload to the shared server: which are kept, which are refused, and what a crash leaves."""

import json
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from model.bundle_format import find_bundle
from monitor.inference.engines.server import _pack_adapter
from monitor.server.adapters import AdapterFiles
from tests.support.bundle_variants import variant_of_packaged

PACKAGED = find_bundle("compact")


QUERIES, HIDDEN = 32, 128


@pytest.fixture
def files(tmp_path: Path) -> AdapterFiles:
    return AdapterFiles(tmp_path / "adapters", PACKAGED / "adapter", rank=16)


def _arrives(files: AdapterFiles, content: bytes, client: str = "anna") -> Path:
    arrived = files.new_file(client)
    arrived.write_bytes(content)
    return arrived


@pytest.mark.parametrize("rank", [8, 16])
def test_an_adapter_is_kept_as_peft_would_write_it(files: AdapterFiles, tmp_path: Path, rank: int) -> None:
    adapter = variant_of_packaged(tmp_path / "other", 1, rank=rank) / "adapter"
    sent = _pack_adapter(adapter)
    assert len(sent) < files.max_bytes
    folder = files.keep(_arrives(files, sent), "anna", "compact-1")
    there = load_file(folder / "adapter_model.safetensors")
    assert there.keys() == load_file(adapter / "adapter_model.safetensors").keys()
    assert all(torch.equal(tensor, there[name]) for name, tensor in load_file(adapter / "adapter_model.safetensors").items())
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == rank
    assert files.kept() == {"anna": {"compact-1": folder}}
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def _packed_with(folder: Path, settings: dict[str, object] | None = None, drop: str = "", **tensors: torch.Tensor) -> bytes:
    weights = load_file(PACKAGED / "adapter/adapter_model.safetensors")
    first = next(iter(weights))
    changed = {name: tensors.get("first", tensor) if name == first else tensor for name, tensor in weights.items() if name != drop}
    changed |= {name: tensor for name, tensor in tensors.items() if name != "first"}
    told = json.loads((PACKAGED / "adapter/adapter_config.json").read_text()) | (settings or {})
    return bytes(save(changed, {"adapter_config": json.dumps(told)}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"settings": {"r": 17}}, "rank is not between 1 and 16"),
        ({"settings": {"r": 4}}, "another shape"),
        ({"settings": {"r": "8"}}, "rank"),
        ({"settings": {"lora_alpha": -1}}, "lora_alpha"),
        ({"settings": {"use_rslora": True}}, "use_rslora"),
        ({"settings": {"use_dora": True}}, "use_dora"),
        ({"settings": {"target_modules": ["q_proj"]}}, "target_modules"),
        ({"settings": {"modules_to_save": ["lm_head"]}}, "modules_to_save"),
        ({"first": torch.zeros(8, 129)}, "another shape"),
        ({"first": torch.full((8, HIDDEN), float("nan"))}, "no number"),
        ({"extra": torch.zeros(1)}, "tensors are not those"),
    ],
    ids=str,
)
def test_an_adapter_that_does_not_fit_is_not_kept(files: AdapterFiles, tmp_path: Path, change: dict[str, object], told: str) -> None:
    name = next(iter(load_file(PACKAGED / "adapter/adapter_model.safetensors")))
    if "first" in change:
        shape = load_file(PACKAGED / "adapter/adapter_model.safetensors")[name].shape
        change = {"first": change["first"] if told != "no number" else torch.full(shape, float("nan"))}
    with pytest.raises(ValueError, match=told):
        files.keep(_arrives(files, _packed_with(tmp_path, **change)), "anna", "compact-1")  # type: ignore[arg-type]
    assert files.kept() == {"anna": {}}
    assert not list((tmp_path / "adapters/anna").iterdir())


def test_what_is_no_adapter_at_all_is_not_kept(files: AdapterFiles, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    for content in (b"", b"rubbish", (2**60).to_bytes(8, "little") + b"{}", (tmp_path / "bare.safetensors").read_bytes()):
        with pytest.raises(ValueError, match=r"safetensors|settings"):
            files.keep(_arrives(files, content), "anna", "compact-1")
    assert files.kept() == {"anna": {}}


def test_what_a_crash_left_behind_is_erased_at_the_next_start(files: AdapterFiles, tmp_path: Path) -> None:
    kept = files.keep(_arrives(files, _pack_adapter(PACKAGED / "adapter")), "anna", "compact-1")
    _arrives(files, b"half")
    half = kept.parent / "new-0.folder"
    half.mkdir()
    (half / "adapter_config.json").write_text("{}")
    assert files.kept() == {"anna": {"compact-1": kept}}
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
