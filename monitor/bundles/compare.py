"""What differs between two bundles: settings, calibration, figures, files and, by tensor group, weights; as JSON and as text.

Weights are compared by the relative L2 norm of the change, |b - a| / |a| over all tensors of a group, where 0 is equal. For a LoRA
adapter that is of its two factors, not of their product. No torch here.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model.bundle_format import BundleManifest
from model.errors import BundleError
from monitor.bundles.library import BundleEntry, read_decision

_CALIBRATION = ("temperature", "unsure_below")
_NOT_SETTINGS = {"version", "files", "scores", *_CALIBRATION}
_WEIGHTS = {"mapper": "mapper.safetensors", "adapter": "adapter/adapter_model.safetensors"}
_LAYER = re.compile(r"(?:^|\.)(layers\.\d+)\.")

Pair = list[Any]


def compare_bundles(one: BundleEntry, other: BundleEntry) -> dict[str, Any]:
    """What differs, as JSON: pairs of what the first and the second have. Raises BundleError where one cannot be read.

    Weights of one that is retired are gone, and are null; so is a group whose tensors have other names or shapes.
    """
    first, second = manifest_of(one), manifest_of(other)
    return {
        "versions": [one.version, other.version],
        "settings": _differences(_settings(first), _settings(second)),
        "calibration": {key: [getattr(first, key), getattr(second, key)] for key in _CALIBRATION},
        "figures": _differences(_figures(one, first), _figures(other, second)),
        "files": _compare_files(first, second),
        "weights": {part: _compare_weights(one.folder / file, other.folder / file) for part, file in _WEIGHTS.items()},
    }


def manifest_of(kept: BundleEntry) -> BundleManifest:
    """Its description. Raises BundleError when it cannot be read."""
    if kept.manifest is None:
        raise BundleError(kept.problem)
    return kept.manifest


def _settings(manifest: BundleManifest) -> dict[str, Any]:
    return manifest.model_dump(mode="json", exclude=_NOT_SETTINGS)


def _figures(kept: BundleEntry, manifest: BundleManifest) -> dict[str, Any]:
    """Figures by a dotted name: of what it was released with, and of the night that made it."""
    figures: dict[str, Any] = {f"released.{score.split}": score.unweighted_accuracy for score in manifest.scores}
    decision = read_decision(kept.folder)
    if decision is not None:
        for part in ("learned", "own", "public", "calibration"):
            told = getattr(decision, part)
            figures |= _flat(part, told.model_dump(mode="json")) if told else {}
    return figures


def _flat(name: str, told: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in told.items():
        flat |= _flat(f"{name}.{key}", value) if isinstance(value, dict) else {f"{name}.{key}": value}
    return flat


def _differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Pair]:
    return {key: [first.get(key), second.get(key)] for key in {**first, **second} if first.get(key) != second.get(key)}


def _compare_files(first: BundleManifest, second: BundleManifest) -> dict[str, str]:
    """Of every part, a file or a folder, whether it is the same in both."""
    parts: dict[str, set[bool]] = defaultdict(set)
    for name in sorted({*first.files, *second.files}):
        parts[name.partition("/")[0]].add(first.files.get(name) == second.files.get(name))
    return {part: "same" if same == {True} else "differs" for part, same in parts.items()}


def _compare_weights(one: Path, other: Path) -> dict[str, float | None] | None:
    """By group and for all, how much changed; None where a file is gone."""
    if not one.is_file() or not other.is_file():
        return None
    first, second = _read(one), _read(other)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in {**first, **second}:
        groups[_group(name)].append(name)
    changed = {group: _change(first, second, names) for group, names in sorted(groups.items(), key=lambda item: _order(item[0]))}
    return {"all": _change(first, second, list({**first, **second})), **changed}


def _change(first: dict[str, Any], second: dict[str, Any], names: list[str]) -> float | None:
    if any(name not in first or name not in second or first[name].shape != second[name].shape for name in names):
        return None
    size = math.sqrt(sum(float((first[name] ** 2).sum()) for name in names))
    change = math.sqrt(sum(float(((second[name] - first[name]) ** 2).sum()) for name in names))
    return change / size if size else (0.0 if not change else None)


def _group(name: str) -> str:
    found = _LAYER.search(name)
    return found.group(1) if found else name.rpartition(".")[0] or name


def _order(group: str) -> tuple[str, int]:
    word, _, number = group.rpartition(".")
    return (word, int(number)) if number.isdigit() else (group, -1)


def _read(path: Path) -> dict[str, Any]:
    """Tensors by name, in float64."""
    import numpy as np
    from safetensors import SafetensorError, deserialize

    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    try:
        tensors = {}
        for name, told in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
            if told["dtype"] == "BF16":
                # The upper half of a float32.
                values = (np.frombuffer(told["data"], "<u2").astype("<u4") << 16).view("<f4")
            else:
                values = np.frombuffer(told["data"], kinds[told["dtype"]])
            tensors[name] = values.astype(np.float64).reshape(told["shape"])
        return tensors
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"the weights in {path} cannot be compared: {error}") from error


def comparison_lines(found: Mapping[str, Any]) -> list[str]:
    """Section by section; what is equal is not told, but for weights and calibration."""
    first, second = found["versions"]
    told = [f"{first} -> {second}"]
    for title, key in (("Settings", "settings"), ("Calibration", "calibration"), ("Figures", "figures")):
        rows = [f"  {name}: {_format_value(before)} -> {_format_value(after)}" for name, (before, after) in found[key].items()]
        told += ["", title, *(rows or ["  no difference"])]
    told += ["", "Files", *_file_lines(found["files"])]
    for part, groups in found["weights"].items():
        told += ["", f"Weights of the {part}, how far they moved in relation to their size", *_weight_lines(groups)]
    return told


def _file_lines(files: Mapping[str, str]) -> Iterator[str]:
    for state in ("same", "differs"):
        names = [name for name, found in files.items() if found == state]
        if names:
            yield f"  {state}: {', '.join(names)}"


def _weight_lines(groups: Mapping[str, float | None] | None) -> Iterator[str]:
    if groups is None:
        yield "  not known: they are gone from one of the two"
        return
    width = max(len(name) for name in groups)
    for name, moved in groups.items():
        yield f"  {name:{width}}  {'other names or shapes' if moved is None else f'{moved:.4f}'}"


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_format_value(one) for one in value) or "-"
    return str(value)
