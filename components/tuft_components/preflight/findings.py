"""What the checks of a preflight found, as a report and as an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tuft_components.errors import BadConfiguration, ExitCode, TransientFailure, exit_code_of

State = Literal["ok", "wrong", "away", "note", "not checked"]
_SIGNS: dict[State, str] = {
    "ok": "✅ ok",
    "wrong": "❌ wrong",
    "away": "⏳ away",
    "note": "⚠️ note",
    "not checked": "– not checked",
}


@dataclass(frozen=True)
class Finding:
    """`says` is what was seen, `advice` what to do where it is not ok.

    A note is something that a pipeline can live with.
    """

    check: str
    state: State
    says: str
    advice: str = ""


def look(check: str, advice: str, see: Callable[[], str]) -> Finding:
    """What `see` says, or what is wrong by the error that it raised.

    A file system says what is wrong with a folder by OSError: that is no bug here.
    """
    try:
        return Finding(check, "ok", see())
    except Exception as error:
        code = exit_code_of(error)
        if code is None and not isinstance(error, OSError):
            raise
        return Finding(check, "away" if code is ExitCode.TRANSIENT else "wrong", str(error), advice)


def markdown(findings: Sequence[Finding]) -> str:
    """The report: a table, and what to do."""
    lines = ["# Preflight", "", _verdict(findings), "", "| check | state | seen |", "|---|---|---|"]
    lines += [f"| {f.check} | {_SIGNS[f.state]} | {_cell(f.says)} |" for f in findings]
    if advice := [f for f in findings if f.state in ("wrong", "away", "note") and f.advice]:
        lines += ["", "## What to do", ""]
        lines += [f"- **{f.check}**: {_cell(f.advice)}" for f in advice]
    return "\n".join(lines) + "\n"


def raise_what_is_wrong(findings: Sequence[Finding]) -> None:
    """Raises:
    BadConfiguration: something is wrong; also what is away is said.
    TransientFailure: nothing is, but something is away.
    """
    bad = [finding for finding in findings if finding.state in ("wrong", "away")]
    if not bad:
        return
    lines = [f"preflight: {_verdict(findings)}"]
    for number, finding in enumerate(bad, 1):
        advice = f" -> {finding.advice}" if finding.advice else ""
        lines.append(f"{number}. {finding.check}: {finding.says}{advice}")
    wrong = any(finding.state == "wrong" for finding in bad)
    raise (BadConfiguration if wrong else TransientFailure)("\n".join(lines))


def _verdict(findings: Sequence[Finding]) -> str:
    wrong = sum(finding.state == "wrong" for finding in findings)
    away = sum(finding.state == "away" for finding in findings)
    if not wrong and not away:
        return "everything that a pipeline needs is there"
    parts = [f"{wrong} wrong" if wrong else "", f"{away} away for now" if away else ""]
    return " and ".join(part for part in parts if part) + f" of {len(findings)} checks"


def _cell(text: str) -> str:
    for mark in "\\`|*<>[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
