"""The weights of the linker: fitted numbers, read from `link_weights.json` beside this file.

The file says how, when and on what they were fitted; `python -m benchmarks.fit_link_weights` fits them anew.
"""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_scripts.linking.candidates import Evidence
from data_scripts.linking.coherence import COHERENCE
from data_scripts.linking.link_evidence import SPELLING_WEIGHTS


FILE = Path(__file__).with_name("link_weights.json")
# The evidence of each part that can be turned off.
PARTS = {
    "coherence": COHERENCE,
    "text": ("description", "context"),
    "case": (
        *("only_capitals", "lower_descriptions", "acronym", "continues"),
        *(f"{kind}_lower_{source}" for kind in ("name", "noun") for source in ("descriptions", "texts")),
        *SPELLING_WEIGHTS,
    ),
}


@dataclass(frozen=True)
class LinkWeights:
    """How much each piece of evidence counts, in log odds.

    Attributes:
        choice: Which candidate of a mention; a softmax over the candidates.
        meaning: Whether any is meant or NIL; a logistic regression on the evidence of the likeliest, with `constant`.
    """

    choice: dict[str, float]
    meaning: dict[str, float]

    def without(self, *parts: str) -> "LinkWeights":
        """The weights with some parts turned off."""
        off = {name for part in parts for name in PARTS[part]}
        choice, meaning = (
            {name: 0.0 if name in off else value for name, value in weights.items()}
            for weights in (self.choice, self.meaning)
        )
        return replace(self, choice=choice, meaning=meaning)


@lru_cache(maxsize=1)
def default_weights() -> LinkWeights:
    """The fitted weights."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    return LinkWeights(document["choice"], document["meaning"])


def weigh(evidence: Evidence, spelling: np.ndarray, weights: dict[str, float]) -> np.ndarray:
    """Weighted sum of the evidence that has a weight, and of the spelling.

    Args:
        spelling: Numbers in `SPELLING_WEIGHTS`; -1 for none.
    """
    # The last place is for -1.
    table = np.array([*(weights[name] for name in SPELLING_WEIGHTS), 0.0])
    total = table[spelling]
    for name, values in evidence.items():
        if weights[name]:
            total += weights[name] * values
    return total
