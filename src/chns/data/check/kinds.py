"""The kinds of findings: what each means, and what becomes of the utterances.

``drop`` is for what cannot be trained on or teaches something wrong, ``correct`` for a manifest that is wrong about
good audio, ``keep`` for what deserves a look. Nothing of the last is certain to harm; whoever knows their corpus can
have it dropped as well.
"""

from __future__ import annotations

from typing import NamedTuple

DROP, CORRECT, KEEP = "drop", "correct", "keep"


class Kind(NamedTuple):
    """One kind of finding.

    Attributes:
        action: What becomes of the utterance by default: ``drop``, ``correct`` or ``keep``.
        meaning: What was found.
        advice: What to do about it.
    """

    action: str
    meaning: str
    advice: str


KINDS = {
    "missing": Kind(DROP, "no such file", "Restore the files, or prepare the corpus anew."),
    "undecodable": Kind(DROP, "cannot be decoded", "Copy or download the files again."),
    "truncated": Kind(DROP, "cut off or damaged, less audio than promised", "Copy or download the files again."),
    "misstated": Kind(
        DROP, "more audio than the header says (joined, chained)", "Write the files anew, in one stream."
    ),
    "not_finite": Kind(DROP, "samples are not numbers", "Write the files again; something divided by zero."),
    "out_of_scale": Kind(DROP, "samples far beyond full scale", "Write the files again with full scale at 1."),
    "silent": Kind(DROP, "nothing above -60 dBFS", "Look whether the wrong channel was taken."),
    "too_short": Kind(DROP, "too short to hold a voice", "Change the limit with --min-seconds."),
    "duplicate": Kind(DROP, "the same samples as another utterance of the speaker", "One of each is kept."),
    "shared_by_speakers": Kind(
        DROP, "the same samples under several speakers", "All are dropped: one name is wrong, and which is not known."
    ),
    "wrong_duration": Kind(
        CORRECT, "another length than the manifest says", "Prepare the corpus anew if files changed."
    ),
    "wrong_rate": Kind(
        CORRECT, "another sample rate than the manifest says", "Prepare the corpus anew if files changed."
    ),
    "too_long": Kind(KEEP, "longer than utterances are", "Look whether recordings with several speakers are uncut."),
    "mostly_silent": Kind(KEEP, "at least 90 % below -60 dBFS", "Cut the silence off: `chns speech --trim`."),
    "quiet": Kind(KEEP, "mean level below -50 dBFS", "Listen whether noise drowns the voice."),
    "clipped": Kind(KEEP, "more than 0.1 % of the samples at full scale", "Harmless if rare; see --drop."),
    "dc_offset": Kind(KEEP, "mean above 2 % of full scale", "Harmless to the features; look at the sound card."),
    "narrow_band": Kind(
        KEEP, "nothing above the telephone band", "Were telephone recordings resampled? Train with them knowingly."
    ),
    "few_utterances": Kind(KEEP, "speaker with too few usable utterances", "The samplers leave such speakers out."),
    "few_sessions": Kind(
        KEEP, "speaker with too few sessions", "A model may learn their microphones and rooms instead of voices."
    ),
}
"""In the order of reports."""
