"""What runs say about a claim, in a sentence."""

import pathlib
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from mtl_vision.report.runs import Run
from mtl_vision.study import entries, summary
from mtl_vision.study.axes import Setting
from mtl_vision.study.summary import ALPHA, Line, Study
from mtl_vision.tables.claims import Claim


class Answer(NamedTuple):
    """A claim, what was measured about it, and what that says.

    verdict: ``yes``, ``in part``, ``no``, ``not shown``, ``no loss shown``, or ``not run``.
    sentences: the first about all rows, then a line per row: what is claimed, then the rest.
    """

    claim: Claim
    study: Study | None
    verdict: str
    sentences: list[str]


def answer(claim: Claim, seeds: Sequence[int], out: pathlib.Path) -> Answer:
    """Returns what the finished runs say; gains are against the best of `claim.against`."""
    found = {label: entries.finished(row, seeds, out) for label, row in claim.rows.items()}
    known = [label for label in claim.against if found[label]]
    if not known or not any(found[label] for label in found if label not in claim.against):
        return Answer(claim, None, "not run", ["Not run."])
    base = best(known, found)
    settings = [Setting(label, (), {}) for label in claim.rows]
    study = summary.study(settings, found, base)
    theirs = next(line for line in study.lines if line.setting.name == base)
    ours = [x for x in study.lines if x.gain and x.setting.name not in claim.against]
    ours.sort(key=lambda line: line.setting.name in claim.beside)
    judgements = {line.setting.name: judged(line, claim.match) for line in ours}
    lines = [said(line, theirs, judgements[line.setting.name]) for line in ours]
    claimed = [word for name, word in judgements.items() if name not in claim.beside]
    return Answer(claim, study, overall(claimed), [headline(theirs), *lines])


def best(names: Sequence[str], found: dict[str, list[Run]]) -> str:
    """Returns the row with the highest mean gain against the first."""
    first, tasks = found[names[0]], found[names[0]][0].tasks
    return max(names, key=lambda name: fmean(summary.gains_of(found[name], first, tasks)))


def judged(line: Line, match: bool) -> str:
    """Returns ``better``, ``worse``, or what cannot be told apart at `ALPHA`."""
    if line.significant:
        return "better" if line.gain.mean > 0 else "worse"
    return "no loss shown" if match else "no difference shown"


def overall(found: Sequence[str]) -> str:
    """Returns the verdict over the rows of a claim; "not run" without any."""
    kinds = set(found)
    good = {"better", "no loss shown"}
    if not kinds:
        return "not run"
    if kinds == {"better"}:
        return "yes"
    if kinds <= good:
        return "no loss shown"
    if kinds & good:
        return "in part"
    return "no" if kinds == {"worse"} else "not shown"


def headline(base: Line) -> str:
    return f"Against {base.setting.name} ({sum(base.trained) / 1e6:.3f} M trained):"


def said(line: Line, base: Line, verdict: str) -> str:
    """Returns a row's measured answer."""
    spread = "" if line.gain.spread is None else f" ± {line.gain.spread:.2f}"
    chance = "" if line.p is None else f", p = {line.p:.2g}"
    share = sum(line.trained) / sum(base.trained)
    seeds = "1 seed" if line.seeds == 1 else f"{line.seeds} seeds"
    return (
        f"{line.setting.name}: Δm {line.gain.mean:+.2f}{spread} %{chance}, {seeds}, "
        f"{share:.0%} of its trained parameters: {verdict}."
    )


__all__ = ["ALPHA", "Answer", "answer"]
