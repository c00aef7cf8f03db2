"""From raters' files to each model's distortion rate, as the paper computes it (Section 5.3)."""

import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from orchestrator.distortion.raters import RATERS_PER_IMAGE
from orchestrator.errors import UserError

VERDICTS = ("fine", "distorted")


@dataclass(frozen=True)
class Ballot:
    """One rater's votes."""

    rater: int
    votes: dict[str, str]
    """Image's id -> ``fine`` or ``distorted``."""
    file: str
    """The file that holds the votes."""


@dataclass(frozen=True)
class DistortionRates:
    """What raters say of each model's low-fidelity images."""

    by_rater: dict[str, dict[int, float]]
    """Model -> rater -> share of its images that the rater calls distorted, of those that the rater
    judged."""
    mean: dict[str, float]
    """Model -> mean over raters: the distortion rate."""
    agreement: float
    """How often two raters say the same of an image that both judged; NaN if there is no such image."""
    judged_too_seldom: int
    """Images that fewer than five raters judged."""


def read_ballots(files: Sequence[str]) -> tuple[str, list[Ballot]]:
    """Read raters' files: the study that they belong to, and their votes.

    Raises:
        UserError: a file was not saved by the page, the files are of several studies, or two are of the same
            rater.
    """
    if not files:
        raise UserError("Name the files that raters saved: jobs/distortion.py rates votes/*.json")
    found = [_read(file) for file in files]
    studies = {study for study, _ in found}
    if len(studies) > 1:
        raise UserError(
            f"The files belong to several studies ({', '.join(sorted(studies))}); give one study's at a time."
        )
    seen: dict[int, str] = {}
    for _, ballot in found:
        if ballot.rater in seen:
            raise UserError(
                f"{ballot.file} and {seen[ballot.rater]} are both of rater {ballot.rater}. Keep the later "
                "one, or have one of them rate again under another number."
            )
        seen[ballot.rater] = ballot.file
    return studies.pop(), [ballot for _, ballot in found]


def _read(file: str) -> tuple[str, Ballot]:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        study, ballot = str(content["study"]), Ballot(int(content["rater"]), dict(content["votes"]), file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no file of votes that the raters' page saved ({error!r}).") from error
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", study):
        raise UserError(f"{file} names the study {study!r}, which is no name of a study's folder.")
    wrong = sorted(set(ballot.votes.values()) - set(VERDICTS))
    if wrong:
        raise UserError(
            f"{file} holds votes other than {' and '.join(VERDICTS)}: {', '.join(map(str, wrong))}."
        )
    return study, ballot


def distortion_rates(key: dict[str, Any], ballots: Sequence[Ballot]) -> DistortionRates:
    """Join votes with the key that tells which model each image is of.

    Raises:
        UserError: a vote is on an image that the study does not have.
    """
    model_of = {identity: image["model"] for identity, image in key["images"].items()}
    by_rater: dict[str, dict[int, float]] = {model: {} for model in dict.fromkeys(model_of.values())}
    judged: Counter[str] = Counter()
    for ballot in ballots:
        unknown = sorted(ballot.votes.keys() - model_of.keys())
        if unknown:
            raise UserError(
                f"{ballot.file} judges images that the study does not have: {', '.join(unknown[:3])}."
            )
        judged.update(ballot.votes.keys())
        for model, rates in by_rater.items():
            mine = [vote for identity, vote in ballot.votes.items() if model_of[identity] == model]
            if mine:
                rates[ballot.rater] = mine.count("distorted") / len(mine)
    # The distortion rate of the paper's Section 5.3 and Figure 5: each rater's own, then their mean.
    mean = {model: statistics.fmean(rates.values()) for model, rates in by_rater.items() if rates}
    seldom = sum(judged[identity] < RATERS_PER_IMAGE for identity in model_of)
    return DistortionRates(by_rater, mean, _agreement(ballots), seldom)


def _agreement(ballots: Sequence[Ballot]) -> float:
    same = [
        one.votes[identity] == other.votes[identity]
        for one, other in combinations(ballots, 2)
        for identity in one.votes.keys() & other.votes.keys()
    ]
    return statistics.fmean(same) if same else float("nan")
