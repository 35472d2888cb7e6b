"""What speakers of the synthetic corpus say."""

from __future__ import annotations

import re

import numpy as np

_WORDS = {
    "name": "Anna Boris Clara David Emma Felix Grace Hugo Irene Jonas Karen Louis Martha Nora Oscar Paula Quentin "
    "Rosa Simon Thea Victor Wanda Yusuf Zoe",
    "person": "teacher doctor farmer driver sailor painter lawyer baker student nurse neighbour gardener visitor "
    "singer pilot judge carpenter librarian uncle daughter",
    "thing": "letter window bicycle kettle hammer carpet basket lantern violin mirror garden bottle jacket ladder "
    "engine pencil cushion blanket camera suitcase umbrella telephone notebook calendar",
    "quality": "small heavy yellow broken quiet shiny empty narrow famous wooden bitter gentle modern purple dusty "
    "cheap ancient curious frozen loyal smooth enormous familiar ordinary",
    "did": "carried found painted borrowed noticed repaired wanted dropped described measured followed collected "
    "opened avoided sold remembered lifted forgot cleaned mentioned",
    "do": "bring fetch carry open repair measure polish borrow watch move describe sell lift choose photograph",
    "place": "near the river|behind the station|in the kitchen|under the old bridge|beside the church|on the roof|"
    "at the market|outside the museum|along the coast|in the valley|across the street|next to the library",
    "time": "this morning|before lunch|after the storm|on Thursday|last winter|every evening|around noon|"
    "by the weekend|in early June|since yesterday|at half past nine|for two weeks",
    "number": "three|seven|eleven|fourteen|twenty|thirty two|forty five|sixty|ninety|two hundred",
}
_VOCABULARY = {kind: words.split("|" if "|" in words else " ") for kind, words in _WORDS.items()}
_PATTERNS = (
    "<name> <did> the <quality> <thing> <place> <time>.",
    "The <quality> <person> <did> <number> <thing>s <time>.",
    "Did the <person> <do> my <quality> <thing> <place>?",
    "Please <do> the <thing> <place> before <name> calls.",
    "<name> and the <person> <did> one <quality> <thing> <time>.",
    "We <did> <number> <quality> <thing>s <place>.",
    "Why would <name> <do> that <quality> <thing> <time>?",
    "Nobody <did> the <thing> that the <person> left <place>.",
    "My <person> says the <thing> is <quality>, but <name> never <did> it.",
    "If you <do> the <thing>, the <person> will <do> the <quality> one.",
)


def random_sentence(rng: np.random.Generator) -> str:
    """One of more than a hundred million sentences."""

    def drawn(field: re.Match[str]) -> str:
        words = _VOCABULARY[field[1]]
        return words[rng.integers(len(words))]

    return re.sub(r"<(\w+)>", drawn, _PATTERNS[rng.integers(len(_PATTERNS))])
