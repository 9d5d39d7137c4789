"""What a check found, and how it is shown: as text to read and as JSON for programs. Checks nothing itself."""

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_INDENT = 18


class Verdict(StrEnum):
    """ok: works. warn: works, with a remark. fail: the monitor will not work like this, or is not private."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


_SHOWN = {Verdict.OK: "ok", Verdict.WARN: "warn", Verdict.FAIL: "FAIL"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of the examination. detail: what was found and what to do, perhaps in several lines; no mark-up."""

    verdict: Verdict
    what: str
    detail: str

    def text(self, columns: int) -> str:
        """For people, in lines of at most `columns` characters; paths and commands are never broken."""
        lines: list[str] = []
        for line in self.detail.splitlines():
            lines += textwrap.wrap(line, max(columns - _INDENT, 20), break_long_words=False, break_on_hyphens=False)
        head = f"{_SHOWN[self.verdict]:<6}{self.what:<{_INDENT - 6}}"
        return head + ("\n" + " " * _INDENT).join(lines)


def worst_verdict(findings: Sequence[Finding]) -> Verdict:
    """The verdict on the whole."""
    found = {finding.verdict for finding in findings}
    return next((verdict for verdict in (Verdict.FAIL, Verdict.WARN) if verdict in found), Verdict.OK)


def format_counts(findings: Sequence[Finding]) -> str:
    """How many of each, in words."""
    counts = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counts[verdict]} {_SHOWN[verdict]}" for verdict in Verdict if counts[verdict])


def findings_json(findings: Sequence[Finding]) -> str:
    """A list of objects with the keys verdict (ok, warn, fail), what and detail; a later version may add to the list, not take away."""
    plain = [{"verdict": f.verdict.value, "what": f.what, "detail": f.detail} for f in findings]
    return json.dumps(plain, ensure_ascii=False, indent=2)
