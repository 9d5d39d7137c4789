"""The commands about models: what they print, what they change, and what they refuse."""

import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from model.bundle_format import MANIFEST_FILE, file_checksums, read_bundle_manifest, verify_checksums
from model.errors import BundleError, EmosllmError
from monitor.bundles.archive import export_bundle, import_bundle
from monitor.bundles.compare import compare_bundles
from monitor.bundles.library import BundleEntry, BundleLibrary, activate_bundle
from monitor.bundles.registry import retire_bundle
from monitor.cli.main import app
from monitor.config import Config
from monitor.control import ControlServer
from monitor.paths import DatabaseFiles
from tests.support.bundles import PACKAGED, VERSION, Monitor, trained
from tests.support.commands import run

CONFIG = Config()


@pytest.fixture
def library() -> BundleLibrary:
    return BundleLibrary.of(CONFIG)


@pytest.fixture
def two(library: BundleLibrary, tmp_path: Path) -> tuple[str, str]:
    """Versions of two bundles that nights made; the second is in use, the first was before."""
    first, second = (library.add(trained(tmp_path / "new", seed)).name for seed in (1, 2))
    activate_bundle(CONFIG, first, "first night")
    activate_bundle(CONFIG, second, "second night")
    return first, second


def told(*arguments: str) -> str:
    """What a command prints on both outputs; raises what it raises."""
    done = CliRunner().invoke(app, ["bundles", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


# looking ---------------------------------------------------------------------------------------------------------


def test_the_list_says_what_each_is_and_what_became_of_it(library: BundleLibrary, two: tuple[str, str], tmp_path: Path) -> None:
    gone, broken = (library.add(trained(tmp_path / "new", seed)) for seed in (3, 4))
    retire_bundle(gone)
    (broken / MANIFEST_FILE).write_text("{")
    lines = {line.split()[0]: line for line in told("list").splitlines()}
    assert "before" in lines[two[0]]
    assert "in use" in lines[two[1]]
    assert f"from {VERSION}  yours 11 -> 17 of 20 right, p 0.035" in lines[two[1]]
    assert "retired" in lines[gone.name]
    assert "erased since" in lines[gone.name]
    assert "damaged" in lines[broken.name]
    assert "built in" in lines[VERSION]
    entries = {entry["version"]: entry for entry in json.loads(told("list", "--json"))}
    assert {version: entry["state"] for version, entry in entries.items()} == {
        VERSION: "kept",
        two[0]: "before",
        two[1]: "in use",
        gone.name: "retired",
        broken.name: "damaged",
    }
    assert (entries[two[1]]["base"], entries[two[1]]["parent"], entries[two[1]]["own"]) == (VERSION, VERSION, True)
    assert entries[two[1]]["decision"]["own"]["gained"] == 7


def test_show_tells_all_and_from_what_it_learned_as_counts_and_dates(two: tuple[str, str]) -> None:
    text = told("show", two[1])
    for part in ("in use", "40 pieces of speech, 2026-11-01 09:00 to 2026-11-25 21:00", "second night", "50 corrections", VERSION):
        assert part in text
    shown = json.loads(told("show", two[1], "--json"))
    assert shown["learned_from"] == {"segments": 40, "from": "2026-11-01T08:00:00+00:00", "to": "2026-11-25T20:00:00+00:00"}
    assert shown["manifest"]["temperature"] == 1.1
    assert [use["why"] for use in shown["uses"]] == ["second night"]


def test_show_tells_what_knowing_the_person_is_worth(library: BundleLibrary, two: tuple[str, str]) -> None:
    path = library.folder / two[1] / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    everyone = {
        "by": "all",
        "name": "",
        "clips": 9,
        "speakers": 2,
        "unweighted_accuracy": 0.8125,
        "interval_95": [0.7, 0.9],
        "chance": 0.25,
    }
    points = [{"minutes": minutes, "minutes_found": min(minutes / 2, 30), "groups": [everyone]} for minutes in (0, 60, 120)]
    path.write_text(json.dumps(manifest | {"scores": [manifest["scores"][0] | {"personal": points}]}))
    lines = [line for line in told("show", two[1]).splitlines() if "knowing the person" in line]
    assert [line.split(maxsplit=3)[3] for line in lines] == ["unweighted accuracy 0.812 after 30.0 minutes of their speech"]


# using -----------------------------------------------------------------------------------------------------------


def test_as_a_person_types_it(two: tuple[str, str], tmp_path: Path) -> None:
    done = run("bundles", "use", "compact", "--why", "to compare")
    assert (done.returncode, done.stdout) == (0, f"{VERSION} is in use\n"), done.stderr
    assert run("bundles", "rollback").stdout == f"{two[1]} is in use again\n"
    assert two[1] in run("bundles", "list").stdout
    assert f"{two[0]} -> {two[1]}" in run("bundles", "diff", *two).stdout
    assert "learned from your voice" in run("bundles", "export", two[0], str(tmp_path / "one.tar")).stderr
    refused = run("bundles", "import", str(tmp_path / "one.tar"))
    assert (refused.returncode, refused.stderr) == (1, f"error: {two[0]} is there already; nothing was changed\n")
    refused = run("bundles", "use", "mine")
    assert (refused.returncode, refused.stderr.startswith("error: there is no bundle 'mine': there are compact-")) == (1, True)


def test_going_back_goes_further_each_time_until_nothing_was_before(library: BundleLibrary, two: tuple[str, str]) -> None:
    assert told("rollback", "--why", "it was worse") == f"{two[0]} is in use again\n"
    assert library.registry.uses()[-1].why == "it was worse"
    assert told("rollback") == f"{VERSION} is in use again\n"
    with pytest.raises(BundleError, match="no model was in use before"):
        told("rollback")


def test_a_running_monitor_goes_back_within_a_second_and_what_it_refuses_is_not_recorded(
    library: BundleLibrary, two: tuple[str, str]
) -> None:
    database = CONFIG.timeline.database_path()
    monitor = Monitor()
    with ControlServer(DatabaseFiles(database).socket, {"use-bundle": monitor.use}):
        begun = time.monotonic()
        told("rollback")
        assert time.monotonic() - begun < 1
    assert monitor.using == str(library.folder / two[0])
    with (
        ControlServer(DatabaseFiles(database).socket, {"use-bundle": Monitor(refusing="no room").use}),
        pytest.raises(EmosllmError, match="no room"),
    ):
        told("use", two[1])
    assert library.registry.chosen() == str(library.folder / two[0])


def test_what_is_retired_is_never_used(library: BundleLibrary, two: tuple[str, str]) -> None:
    retire_bundle(library.folder / two[0])
    with pytest.raises(BundleError, match="not used any more"):
        told("use", two[0])
    assert told("rollback") == f"{VERSION} is in use again\n"


@pytest.mark.parametrize("why", ["two\nlines", "x" * 201])
def test_a_reason_is_one_line(two: tuple[str, str], why: str) -> None:
    with pytest.raises(BundleError, match="one line"):
        told("use", "compact", "--why", why)


# comparing -------------------------------------------------------------------------------------------------------


def test_weights_are_compared_by_how_far_they_moved(library: BundleLibrary, tmp_path: Path) -> None:
    moved = BundleEntry.at("moved", trained(tmp_path / "moved", 3, size=0.05), own=False)
    found = compare_bundles(library.find("compact"), moved)
    for part, groups in (
        ("mapper", ["enter", "leave", "mix.norm", "queries", "mix.layers.0", "layers.0"]),
        ("adapter", ["layers.0", "layers.3"]),
    ):
        known = found["weights"][part]
        assert known["all"] == pytest.approx(0.05, rel=1e-3)
        assert all(value == pytest.approx(0.05, rel=1e-3) for value in known.values()), known
        assert set(known) & set(groups)
    assert found["calibration"]["temperature"] == [read_bundle_manifest(PACKAGED).temperature, 1.1]
    assert found["settings"]["created"] == [read_bundle_manifest(PACKAGED).created, "2026-11-03"]
    assert found["files"]["adapter"] == "differs"
    assert found["files"]["confusion.json"] == "same"
    assert found["figures"]["own.right_after"] == [None, 17]
    same = compare_bundles(library.find("compact"), library.find("compact"))
    assert {value for groups in same["weights"].values() for value in groups.values()} == {0.0}
    assert same["settings"] == same["figures"] == {}


def test_half_precision_and_other_shapes_are_told_apart(tmp_path: Path) -> None:
    one, other = trained(tmp_path / "one"), trained(tmp_path / "other")
    weights = load_file(one / "mapper.safetensors")
    save_file({name: tensor.astype(np.float16) for name, tensor in weights.items()}, other / "mapper.safetensors")
    adapter = load_file(one / "adapter/adapter_model.safetensors")
    longer = {name: np.concatenate([tensor, tensor]) if "layers.0.mlp.up" in name else tensor for name, tensor in adapter.items()}
    save_file(longer, other / "adapter/adapter_model.safetensors")
    found = compare_bundles(BundleEntry.at("a", one, own=False), BundleEntry.at("b", other, own=False))["weights"]
    assert 0 < found["mapper"]["all"] < 0.001
    assert (found["adapter"]["all"], found["adapter"]["layers.0"], found["adapter"]["layers.1"]) == (None, None, 0.0)


def test_bfloat16_is_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    one, other = trained(tmp_path / "one"), trained(tmp_path / "other")
    weights = {name: torch.from_numpy(tensor).bfloat16() for name, tensor in load_file(one / "mapper.safetensors").items()}
    save_torch(weights, other / "mapper.safetensors")
    found = compare_bundles(BundleEntry.at("a", one, own=False), BundleEntry.at("b", other, own=False))["weights"]
    assert 0 < found["mapper"]["all"] < 0.004


def test_differences_are_told_in_lines_and_weights_of_a_retired_one_are_gone(library: BundleLibrary, two: tuple[str, str]) -> None:
    text = told("diff", "compact", two[0])
    for part in (
        f"temperature: {read_bundle_manifest(PACKAGED).temperature:g} -> 1.1",
        "same: LICENSE, README.md, confusion.json",
        "Weights of the adapter",
        "  all ",
        "own.segments: - -> 20",
    ):
        assert part in text
    assert json.loads(told("diff", "compact", two[0], "--json"))["versions"] == [VERSION, two[0]]
    retire_bundle(library.folder / two[0])
    assert "they are gone from one of the two" in told("diff", "compact", two[0])


# taking elsewhere and bringing in --------------------------------------------------------------------------------


def test_what_is_exported_comes_back_exactly_and_is_used_only_when_told(library: BundleLibrary, tmp_path: Path) -> None:
    there = library.add(trained(tmp_path / "new"))
    before, file = file_checksums(there), tmp_path / "one.tar"
    told("export", there.name, str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        assert {(member.uid, member.uname) for member in archive} == {(0, "")}
    shutil.rmtree(there)
    assert f"bundles use {there.name}" in told("import", str(file))
    assert file_checksums(there) == before
    verify_checksums(there, read_bundle_manifest(there))
    assert {path.stat().st_mode & 0o077 for path in (there, *there.rglob("*"))} == {0}
    assert library.registry.chosen() == "compact"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.tar"]


def test_one_that_learned_from_nobody_is_exported_without_a_warning(library: BundleLibrary, tmp_path: Path) -> None:
    assert "your voice" not in told("export", "compact", str(tmp_path / "compact.tar"))
    with pytest.raises(BundleError, match="write over it with --force"):
        export_bundle(library.find("compact"), tmp_path / "compact.tar")
    export_bundle(library.find("compact"), tmp_path / "compact.tar", force=True)
    with pytest.raises(BundleError, match="No such file"):
        export_bundle(library.find("compact"), tmp_path / "nowhere" / "compact.tar")


def test_what_is_damaged_or_retired_is_not_exported(library: BundleLibrary, tmp_path: Path) -> None:
    there = library.add(trained(tmp_path / "new"))
    (there / "mapper.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        export_bundle(library.find(there.name), tmp_path / "one.tar")
    retire_bundle(there)
    with pytest.raises(BundleError, match="retired"):
        export_bundle(library.find(there.name), tmp_path / "one.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_retired_one_does_not_come_back(library: BundleLibrary, tmp_path: Path) -> None:
    there = library.add(trained(tmp_path / "new"))
    export_bundle(library.find(there.name), tmp_path / "one.tar")
    retire_bundle(there)
    with pytest.raises(BundleError, match="there already, retired"):
        import_bundle(library, tmp_path / "one.tar")
    assert sorted(path.name for path in there.rglob("*") if path.is_file()) == [MANIFEST_FILE, "retired.json"]


Members = dict[str, tuple[tarfile.TarInfo, bytes]]


def _members(file: Path) -> Members:
    with tarfile.open(file) as archive:
        return {
            member.name: (member, (archive.extractfile(member) or io.BytesIO()).read() if member.isreg() else b"") for member in archive
        }


def _written(file: Path, members: Members, mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for member, content in members.values():
            archive.addfile(member, io.BytesIO(content))
    return file


def _extra(name: str, content: bytes = b"x", **attributes: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        for key, value in attributes.items():
            setattr(member, key, value)
        members["extra"] = (member, content if member.isreg() else b"")

    return change


def _content(ending: str, change: Callable[[bytes], bytes]) -> Callable[[Members], None]:
    def changed(members: Members) -> None:
        (name,) = (name for name in members if name.endswith(ending))
        member, content = members[name]
        member.size = len(change(content))
        members[name] = (member, change(content))

    return changed


def _without(ending: str) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        for name in [name for name in members if name.endswith(ending)]:
            del members[name]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_extra("../outside"), "no links"),
        (_extra("/etc/outside"), "no links"),
        (_extra("top/../../outside"), "no links"),
        (_extra("one\\two"), "no links"),
        (_extra("x" * 300), "no links"),
        (_extra("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no links"),
        (_extra("link", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "no links"),
        (_extra("pipe", b"", type=tarfile.FIFOTYPE), "no links"),
        (_extra("disk", b"", type=tarfile.CHRTYPE), "no links"),
        (_extra("other/file"), "2 folders, not one"),
        (_content("mapper.safetensors", lambda content: content[:-1] + b"\x01"), "is not the file"),
        (_content(MANIFEST_FILE, lambda content: content.replace(b'"format": 1', b'"format": 2')), "not of a format"),
        (_content(MANIFEST_FILE, lambda content: content.replace(b'"version": "', b'"version": "../')), "no version"),
        (_content(MANIFEST_FILE, lambda content: content[:-9]), "not of a format"),
        (_without(MANIFEST_FILE), "no bundle.json"),
        (_without("adapter_config.json"), "adapter_config.json is missing"),
    ],
)
def test_what_is_no_bundle_is_refused_and_leaves_nothing(
    library: BundleLibrary, tmp_path: Path, change: Callable[[Members], None], reason: str
) -> None:
    folder = trained(tmp_path / "new")
    export_bundle(BundleEntry.at(str(folder), folder, own=False), tmp_path / "good.tar")
    members = _members(tmp_path / "good.tar")
    change(members)
    with pytest.raises(BundleError, match=reason):
        import_bundle(library, _written(tmp_path / "bad.tar", members))
    assert not library.folder.exists() or list(library.folder.iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_file_twice_more_in_its_folder_or_a_compressed_one_is_refused(library: BundleLibrary, tmp_path: Path) -> None:
    folder = trained(tmp_path / "new")
    version = read_bundle_manifest(folder).version
    export_bundle(BundleEntry.at(str(folder), folder, own=False), tmp_path / "good.tar")
    members = _members(tmp_path / "good.tar")
    for number, (name, reason) in enumerate(((f"{version}/LICENSE", "twice"), (f"{version}/more.py", "does not belong"))):
        more = dict(members)
        _extra(name)(more)
        with pytest.raises(BundleError, match=reason):
            import_bundle(library, _written(tmp_path / f"{number}.tar", more))
    with pytest.raises(BundleError, match="no plain tar"):
        import_bundle(library, _written(tmp_path / "small.tar.gz", members, "w:gz"))
    for name, content in (("empty", b""), ("text", b"x" * 5000)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BundleError, match=r"no plain tar|damaged|0 folders"):
            import_bundle(library, tmp_path / name)
    with pytest.raises(BundleError, match="cannot read"):
        import_bundle(library, tmp_path / "nothing.tar")
    assert list(library.folder.iterdir()) == []


def test_one_that_was_cut_off_is_refused_at_every_length(library: BundleLibrary, tmp_path: Path) -> None:
    folder = trained(tmp_path / "new")
    export_bundle(BundleEntry.at(str(folder), folder, own=False), tmp_path / "good.tar")
    whole = (tmp_path / "good.tar").read_bytes()
    for share in (0.01, 0.1, 0.4, 0.7, 0.9, 0.98):
        (tmp_path / "cut.tar").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BundleError):
            import_bundle(library, tmp_path / "cut.tar")
    assert not library.folder.exists() or list(library.folder.iterdir()) == []


def test_what_needs_more_room_than_there_is_is_refused_before_a_byte_is_written(library: BundleLibrary, tmp_path: Path) -> None:
    """The list of an archive can claim any size."""
    member = tarfile.TarInfo(f"compact-1/{MANIFEST_FILE}")
    text = (PACKAGED / MANIFEST_FILE).read_bytes()
    member.size = len(text)
    huge = tarfile.TarInfo("compact-1/mapper.safetensors")
    huge.size = 2**45
    with (tmp_path / "huge.tar").open("wb") as file:
        file.write(member.tobuf() + text + b"\0" * (-len(text) % 512) + huge.tobuf() + b"x" * 512)
    with pytest.raises(BundleError, match=r"holds more than|no plain tar"):
        import_bundle(library, tmp_path / "huge.tar")
    assert list(tmp_path.iterdir()) == [tmp_path / "huge.tar"]
