"""What in the logs may explain why hard sampling helped or not: one function a rule, each with its threshold.

A rule states what was measured and what it suggests; it never claims to be the cause. Thresholds are rules of thumb.
Those of loss and temperature lie between these runs of small ECAPA-TDNNs, SupCon, 600 to 1,000 steps, one seed each:

===================================  ==================  ====================  ===================
at the end of the training           synthetic families  three corpora, h 0.5  three corpora, h 1
===================================  ==================  ====================  ===================
random loss, share of guessing       1 %                 8 %                   8 %
temperature, times random batches'   0.95                1.16                  1.48
EER                                  a quarter lower     equal or higher       higher
===================================  ==================  ====================  ===================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from chns.comparison import run_evidence as advice
from chns.comparison.run_evidence import TwinEvidence

EASY_LOSS_SHARE = 0.05  # of the loss of guessing: below it, batches teach little
NEAR_DUPLICATE_SIMILARITY = 0.9  # a twentieth of a batch's negatives are closer than this
DUPLICATE_SHARE = 0.01  # suspected pairs of one person, a training speaker
FEW_UTTERANCES = 5  # a speaker, median
STUCK_LOSS_SHARE = 0.8  # of the loss with which the hard phase began
RISEN_TEMPERATURE = 1.25  # times that of random batches
HARDER_SIMILARITY = 0.02  # rise of the 95th percentile over random batches
HARDER_LOSS = 1.2  # times that of random batches
FEWER_EASY_ANCHORS = 0.02  # fall of their share below that of random batches
SEPARATED_CONDITIONS = 0.5  # of the way from chance to clusters of one condition each
SHORT_HARD_PHASE_SHARE = 0.25  # of all steps
SHORT_HARD_PHASE_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What one rule found.

    Attributes:
        rule: Name of the rule, for programs.
        text: What was measured and what it suggests.
        try_next: Settings to try, best first; each as it would stand in a YAML file, with its reason if that is short.
    """

    rule: str
    text: str
    try_next: tuple[str, ...] = ()


def easy_random_batches(evidence: TwinEvidence) -> Explanation | None:
    """The loss of random batches ended at 5 % of that of guessing, or below: they had little left to teach."""
    guessing = evidence.guessing_loss
    if guessing is None:
        return None
    random, hard = (evidence.final("loss", hard=hard) for hard in (False, True))
    if not random <= EASY_LOSS_SHARE * guessing:
        return None
    share = f"{100 * random / guessing:.0f} %"
    easy = f"Random batches had become easy: their loss ended at {random:.2f}, {share} of that of guessing"
    if hard > EASY_LOSS_SHARE * guessing:
        return Explanation(
            rule="random_batches_easy", text=f"{easy}, while that of {evidence.hard_batches} was still {hard:.2f}."
        )
    return Explanation(
        rule="everything_learnt",
        text=f"{easy}, and that of {evidence.hard_batches} at {hard:.2f}. What these recordings can teach is "
        "learnt, whatever the negatives.",
        try_next=(
            "more utterances a speaker, or augmentation, so that there is something left to learn",
            *advice.closer_speakers(evidence),
        ),
    )


def random_batches_not_easy(evidence: TwinEvidence) -> Explanation | None:
    """The loss of random batches ended above 5 % of that of guessing: they still taught, so harder ones need not."""
    guessing = evidence.guessing_loss
    if guessing is None:
        return None
    random = evidence.final("loss", hard=False)
    if not random > EASY_LOSS_SHARE * guessing:
        return None
    epochs = evidence.settings.train.epochs
    return Explanation(
        rule="random_batches_not_easy",
        text=f"Random batches still taught at the end: their loss was {random:.2f}, {100 * random / guessing:.0f} % of "
        "that of guessing. Hard batches are for when random ones have become easy.",
        try_next=(f"train: {{epochs: {2 * epochs}}}", *advice.later_start(evidence)),
    )


def near_duplicates(evidence: TwinEvidence) -> Explanation | None:
    """A twentieth of the negatives of hard batches are closer than 0.9, or 1 % of the speakers have a double.

    Doubles do not count where those who may be one person never meet in a batch.
    """
    similarity = evidence.hard_phase("negative_similarity_p95", hard=True)
    doubles = 0 if evidence.keeps_doubles_apart else evidence.suspected_duplicates or 0
    many_doubles = doubles > 0 and doubles >= DUPLICATE_SHARE * evidence.num_training_speakers
    if not (similarity >= NEAR_DUPLICATE_SIMILARITY or many_doubles):
        return None
    if many_doubles:
        seen = f"{doubles:,} pairs of the {evidence.num_training_speakers:,} training speakers may each be one person"
    else:
        seen = (
            f"The closest twentieth of the different speakers in {evidence.hard_batches} have a cosine above "
            f"{similarity:.2f}"
        )
    return Explanation(
        rule="near_duplicates",
        text=f"{seen}. If they are one person under two names, the loss pushes apart what belongs together.",
        try_next=(
            "listen to the closest pairs of speakers: `chns cluster --pairs`, or the report's list of duplicates",
            *advice.doubles_apart(evidence),
            *advice.less_hard(evidence),
        ),
    )


def few_utterances(evidence: TwinEvidence) -> Explanation | None:
    """Half of the training speakers have fewer than 5 utterances: little of a voice beyond a few recordings of it."""
    number = evidence.utterances_per_speaker
    if number >= FEW_UTTERANCES:
        return None
    return Explanation(
        rule="few_utterances",
        text=f"Half of the training speakers have {number:g} utterances or fewer. Hard negatives then teach to tell "
        "apart these recordings rather than these voices.",
        try_next=("more utterances a speaker, or augmentation", *advice.less_hard(evidence)),
    )


def stuck_hard_loss(evidence: TwinEvidence) -> Explanation | None:
    """In 200 steps or more of the full hard ratio the loss ended above 80 % of what it began with."""
    start, end = evidence.hardest("loss")
    if not (end > STUCK_LOSS_SHARE * start and evidence.hardest_steps >= SHORT_HARD_PHASE_STEPS):
        return None
    return Explanation(
        rule="stuck_hard_loss",
        text=f"The loss of {evidence.hard_batches} did not come down: {start:.2f} when they had become as hard as they "
        f"would be, {end:.2f} when that ended. They may be too hard for this encoder.",
        try_next=(*advice.less_hard(evidence), *advice.gentler_start(evidence)),
    )


def risen_temperature(evidence: TwinEvidence) -> Explanation | None:
    """The learnt temperature ended at 1.25 times that of random batches, or above: the loss softened itself."""
    random, hard = (evidence.final("temperature", hard=hard) for hard in (False, True))
    if not hard >= RISEN_TEMPERATURE * random:
        return None
    return Explanation(
        rule="risen_temperature",
        text=f"The learnt temperature ended at {hard:.3f}, {hard / random:.2f} times that of random batches "
        f"({random:.3f}): the loss became more lenient instead of telling the hard speakers apart.",
        try_next=(*advice.less_hard(evidence), "loss: {settings: {learn_temperature: false}}"),
    )


def hardly_harder(evidence: TwinEvidence) -> Explanation | None:
    """Neither negatives' similarity (p95, + 0.02) nor loss (x 1.2) nor easy anchors (- 0.02) tell of harder batches.

    One of the three is enough to call them harder, and the mean similarity is not asked: in a large batch of small
    groups nearly all pairs are strangers, and neither the mean nor p95 sees the few who are not. Older runs did not log
    easy anchors.
    """
    column = "negative_similarity_p95"
    rise = evidence.hard_phase(column, hard=True) - evidence.hard_phase(column, hard=False)
    ratio = evidence.hard_phase("loss", hard=True) / evidence.hard_phase("loss", hard=False)
    easy_random, easy_hard = (evidence.hard_phase("easy_anchor_share", hard=hard) for hard in (False, True))
    if not (rise < HARDER_SIMILARITY and ratio < HARDER_LOSS) or easy_random - easy_hard >= FEWER_EASY_ANCHORS:
        return None
    measured = f"p95 of the similarity of different speakers {rise:+.2f}, loss {ratio:.2f} times theirs"
    if not math.isnan(easy_random - easy_hard):
        measured += f", easy anchors {100 * easy_hard:.0f} % instead of {100 * easy_random:.0f} %"
    return Explanation(
        rule="hardly_harder",
        text=f"{evidence.hard_batches.capitalize()} were hardly harder than random ones: {measured}. "
        f"{advice.size_of_groups(evidence)}",
        try_next=advice.harder(evidence),
    )


def separated_conditions(evidence: TwinEvidence) -> Explanation | None:
    """Clusters are at least half of the way from chance to holding one recording condition each."""
    mixing = evidence.conditions
    if mixing is None or mixing.separation < SEPARATED_CONDITIONS:
        return None
    return Explanation(
        rule="separated_conditions",
        text=f"Clusters separate the corpora: {100 * mixing.within:.0f} % of the pairs of speakers in a cluster are of "
        f"one corpus, {100 * mixing.chance:.0f} % of all pairs. The hard speakers of a batch then share a recording "
        "condition, and batch normalisation is trained on one at a time.",
        try_next=(
            *advice.less_hard(evidence),
            "batches: {kind: neighbours} (groups of all corpora meet in a batch)",
            "train and cluster each corpus by itself",
        ),
    )


def short_hard_phase(evidence: TwinEvidence) -> Explanation | None:
    """The hard phase has fewer than 200 steps, or less than a quarter of all."""
    steps, total = evidence.hard_steps, evidence.all_steps
    if steps >= SHORT_HARD_PHASE_STEPS and steps >= SHORT_HARD_PHASE_SHARE * total:
        return None
    text = f"The hard phase was short: {steps:,.0f} of {total:,.0f} steps."
    if evidence.is_adaptive:
        text += " It begins when random batches are easy; decisions.txt in the run's folder says what happened when."
    sooner = advice.earlier_start(evidence) if random_batches_not_easy(evidence) is None else ()
    return Explanation(
        rule="short_hard_phase",
        text=text,
        try_next=(f"train: {{epochs: {2 * evidence.settings.train.epochs}}}", *sooner),
    )


Rule = Callable[[TwinEvidence], Explanation | None]

EXPLAIN_HELP: tuple[Rule, ...] = (easy_random_batches,)
EXPLAIN_NO_HELP: tuple[Rule, ...] = (
    hardly_harder,
    short_hard_phase,
    separated_conditions,
    near_duplicates,
    risen_temperature,
    stuck_hard_loss,
    few_utterances,
    random_batches_not_easy,
    easy_random_batches,
)
