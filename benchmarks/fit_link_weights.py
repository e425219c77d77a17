"""Fits the weights of the linker, one set of numbers for all, and shows that they travel.

    python -m benchmarks.fit_link_weights --data FOLDER

`FOLDER` holds `aida_entities`, `aida_testa`, `wikidata_entities`, `kore50` and `wiki_fair` as `.jsonl.gz` in the
formats of `benchmarks.entity_linking`; they are read here and never by the product. The training split of the sample
is used as it is, in Title Case, among the namesakes of `benchmarks.linking_homonyms`, and with statistics of the texts
of its few most frequent entities alone, where many texts have the same word and mean it. Two models, both linear in
the evidence:

    choice    which candidate: a softmax over the candidates of the mentions whose entity is one of them, fitted by
              likelihood and then by the expected number of right mentions, which a few hopeless mentions do not rule
    meaning   whether one of the candidates is meant: logistic regression on the evidence of the likeliest

Each set of texts weighs as given in `SETS`, whatever its size. Writes `data_scripts/linking/link_weights.json`, and a
table with each set left out in turn.
"""

import argparse
import dataclasses
import json
from collections import Counter, defaultdict
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import minimize, minimize_scalar
from sklearn.linear_model import LogisticRegression

from benchmarks.entity_linking import build_once, counts, given_mentions, read_lines, split_texts, title_case
from benchmarks.evaluation_record import write_record
from benchmarks.linking_homonyms import write_entities
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.candidates import Candidates, Evidence, gather_candidates
from data_scripts.linking.coherence import COHERENCE
from data_scripts.linking.link_entities import MIN_PROBABILITY, Ranking, rank_candidates
from data_scripts.linking.link_evidence import SPELLING_WEIGHTS
from data_scripts.linking.link_weights import FILE, LinkWeights
from data_scripts.linking.recognize_mentions import recognize_mentions
from data_scripts.linking.statistics import TextStatistics, learn_statistics
from data_scripts.schema import Batch


# Coherence is measured beside the candidates that lead, and who leads depends on the weights: fitted so many times.
ROUNDS = 3
CHOICE_PENALTY, MEANING_PENALTY = 1e-3, 0.3
# The loss no longer moves in its fourth digit.
MAX_STEPS = 150
# Entities whose texts are read alone.
NUM_FEW = 8
# Of each concept; `benchmarks.linking_homonyms` measures with other numbers, whose namesakes are other ones.
NUM_HOMONYMS = 100


@dataclasses.dataclass(frozen=True)
class SetOptions:
    """A set of texts: where it is, and its share in the two fits."""

    entities: str
    gold: str
    mentions: str
    statistics: str = "texts"
    choice: float = 1.0
    meaning: float = 1.0

    @property
    def group(self) -> str:
        """What it shares with the sets of the same texts."""
        return self.gold.split(",")[0]


SETS = {
    "AIDA testa": SetOptions("aida_entities", "aida_testa", "given", choice=2.0, meaning=0.1),
    "AIDA testa, sentences": SetOptions(
        "aida_entities", "aida_testa", "given", statistics="sentences", choice=0.0, meaning=0.1
    ),
    "KORE50": SetOptions("wikidata_entities", "kore50", "found", choice=0.3, meaning=0.3),
    "Wiki-Fair": SetOptions("wikidata_entities", "wiki_fair", "found"),
    "sample, train": SetOptions("sample", "train", "found"),
    "sample, train, Title Case": SetOptions("sample", "train, Title Case", "found", meaning=0.5),
    "sample, train, homonyms": SetOptions("sample", "train, homonyms", "found", choice=0.5, meaning=0.3),
    "sample, train, few entities": SetOptions("sample", "train, few entities", "found", choice=0.0, meaning=0.3),
}


@dataclasses.dataclass
class LabeledSet:
    """Mentions with their candidates, and which of them is right.

    Attributes:
        right: Place of the right candidate of each mention, -1 if none is, [M].
        counted: Whether each mention counts, [M].
        num_gold: Mentions that there are to find.
        ranking: Evidence under the weights of the round before.
    """

    options: SetOptions
    batch: Batch
    flat: Candidates
    knowledge_base: str
    learned: TextStatistics
    right: np.ndarray
    counted: np.ndarray
    num_gold: int
    ranking: Ranking | None = None

    def rank(self, weights: LinkWeights) -> None:
        """Computes the evidence anew."""
        kb = open_knowledge_base(self.knowledge_base)
        self.ranking = rank_candidates(self.batch, self.flat, kb, learned=self.learned, weights=weights)

    @cached_property
    def has_right(self) -> np.ndarray:
        """Mentions whose entity is among the candidates, [M]."""
        return self.counted & (self.right >= 0)


def main() -> None:
    """Fits, writes the weights, and measures each set by weights fitted without it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of the labeled sets.")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="Keeps the knowledge bases.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/link_weights.json"))
    args = parser.parse_args()
    sets = {name: open_set(options, args.data, args.folder) for name, options in SETS.items()}
    weights = fit(list(sets.values()))
    measured = {name: {"fitted on all": measure(labeled, weights)} for name, labeled in sets.items()}
    write_weights(weights)
    for group in dict.fromkeys(labeled.options.group for labeled in sets.values()):
        without = fit([labeled for labeled in sets.values() if labeled.options.group != group])
        for name, labeled in sets.items():
            if labeled.options.group == group:
                measured[name]["fitted on the others"] = measure(labeled, without)
    write_record(args.output, {"sets": measured})
    print(json.dumps(measured, indent=2))


def open_set(options: SetOptions, data: Path, folder: Path) -> LabeledSet:
    """Reads a set, finds its mentions and learns its statistics."""
    if options.entities == "sample":
        return open_sample(options, folder)
    knowledge_base = build_once(str(data / f"{options.entities}.jsonl.gz"), folder)
    gold = list(read_lines(str(data / f"{options.gold}.jsonl.gz")))
    texts = [line["text"] for line in gold]
    batch: Batch = {"alt_text": texts}
    if options.mentions == "given":
        batch["mentions"] = [given_mentions(line, knowledge_base) for line in gold]
    else:
        batch = recognize_mentions(batch, knowledge_base=knowledge_base)
    learned = learn_statistics(
        split_texts(texts, into=options.statistics), knowledge_base=knowledge_base, language="en"
    )
    flat = gather_candidates(batch["mentions"], open_knowledge_base(knowledge_base), dropped=learned.dropped)
    spans = [defaultdict(set) for _ in gold]
    for line, found in zip(gold, spans, strict=True):
        for span in line["mentions"]:
            found[span["start"], span["end"]].add(span["entity_id"])
    places = [(row, (m["start"], m["end"])) for row, m in zip(flat.text.tolist(), flat.mentions, strict=True)]
    right = find_right(flat, knowledge_base, [spans[row].get(span, set()) for row, span in places])
    counted = np.array([counts((*span, ""), gold[row]) for row, span in places])
    num_gold = sum(any(entities) for found in spans for entities in found.values())
    return LabeledSet(options, batch, flat, knowledge_base, learned, right, counted, num_gold)


def open_sample(options: SetOptions, folder: Path) -> LabeledSet:
    """The training split; a mention is right if it is the entity that the text is labeled with."""
    rows = pq.read_table("sample_data/pairs/train.parquet", columns=["alt_text", "gold_text_entity_id"]).to_pydict()
    if "few" in options.gold:
        counts_of = Counter(filter(None, rows["gold_text_entity_id"]))
        few = {entity_id for entity_id, _ in counts_of.most_common(NUM_FEW)}
        kept = [row for row, entity_id in enumerate(rows["gold_text_entity_id"]) if entity_id in few]
        rows = {name: [values[row] for row in kept] for name, values in rows.items()}
    entities = "sample_data/entities.jsonl.gz"
    if "homonyms" in options.gold:
        entities = str(write_entities(folder / f"homonyms-{NUM_HOMONYMS}.jsonl", NUM_HOMONYMS))
    knowledge_base = build_once(entities, folder)
    learned = learn_statistics(rows["alt_text"], knowledge_base=knowledge_base, language="en")
    texts = list(map(title_case, rows["alt_text"])) if "Title" in options.gold else rows["alt_text"]
    batch = recognize_mentions({"alt_text": texts}, knowledge_base=knowledge_base)
    flat = gather_candidates(batch["mentions"], open_knowledge_base(knowledge_base), dropped=learned.dropped)
    gold = rows["gold_text_entity_id"]
    right = find_right(flat, knowledge_base, [{gold[row]} for row in flat.text.tolist()])
    counted = np.ones(len(right), dtype=bool)
    return LabeledSet(options, batch, flat, knowledge_base, learned, right, counted, sum(map(bool, gold)))


def find_right(flat: Candidates, knowledge_base: str, wanted: list[set]) -> np.ndarray:
    """Place of the first candidate of each mention that is wanted, -1 if there is none, [M]."""
    ids = open_knowledge_base(knowledge_base).entity_ids(flat.entity)
    right = np.full(len(wanted), -1)
    for place in range(len(ids) - 1, -1, -1):
        if ids[place] in wanted[flat.mention[place]]:
            right[flat.mention[place]] = place
    return right


def fit(sets: list[LabeledSet]) -> LinkWeights:
    """Fits both models, coherence measured anew in each round under the weights of the round before."""
    weights = LinkWeights(defaultdict(float), defaultdict(float))
    choosing = [labeled for labeled in sets if labeled.options.choice]
    for number in range(ROUNDS):
        for labeled in choosing:
            labeled.rank(weights)
        # Before anything leads there is no coherence.
        weights = LinkWeights(fit_choice(choosing, without=COHERENCE if number == 0 else ()), weights.meaning)
    for labeled in sets:
        labeled.rank(weights)
    return LinkWeights(weights.choice, fit_meaning(sets))


def columns_of(evidence: Evidence, spelling: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names and columns of the evidence, one for each spelling."""
    one_hot = spelling[:, None] == np.arange(len(SPELLING_WEIGHTS))
    return [*evidence, *SPELLING_WEIGHTS], np.column_stack([*evidence.values(), one_hot])


def fit_choice(sets: list[LabeledSet], *, without: tuple[str, ...]) -> dict[str, float]:
    """Weights of the softmax over candidates."""
    parts = []
    for labeled in sets:
        ranking, flat = labeled.ranking, labeled.flat
        names, columns = columns_of(ranking.choice, ranking.spelling)
        columns[:, [name in without for name in names]] = 0
        kept = labeled.has_right[flat.mention]
        mention = np.cumsum(labeled.has_right)[flat.mention[kept]] - 1
        place = np.cumsum(kept) - 1
        right = place[labeled.right[labeled.has_right]]
        parts.append((columns[kept], mention, right, labeled.options.choice / len(right)))
    scale = np.concatenate([part[0] for part in parts]).std(axis=0) + 1e-3
    parts = [((columns / scale).astype(np.float32), *rest) for columns, *rest in parts]
    fitted = np.zeros(len(scale))
    for by_likelihood in (True, False):
        options = {"maxiter": MAX_STEPS}
        fitted = minimize(choice_loss, fitted, (parts, by_likelihood), jac=True, method="L-BFGS-B", options=options).x
    # Expected right mentions know no scale: the one under which the shares are probabilities is of the likelihood.
    fitted *= minimize_scalar(lambda scale: choice_loss(scale * fitted, parts, True)[0], (0.1, 1)).x
    return dict(zip(names, (fitted / scale).tolist(), strict=True))


def choice_loss(weights: np.ndarray, parts: list[tuple], by_likelihood: bool) -> tuple[float, np.ndarray]:
    """Minus the log likelihood, or the expected share of right mentions, with a penalty; and its gradient."""
    loss, gradient = CHOICE_PENALTY * weights @ weights, 2 * CHOICE_PENALTY * weights
    for columns, mention, right, share in parts:
        logits = columns @ weights.astype(np.float32)
        starts = np.flatnonzero(np.r_[True, np.diff(mention) > 0])
        powers = np.exp(logits - np.maximum.reduceat(logits, starts)[mention])
        probability = powers / np.add.reduceat(powers, starts)[mention]
        chosen = probability[right]
        # Both gradients are a multiple of `expected - right`, mention by mention.
        factor = np.ones(len(right)) if by_likelihood else chosen
        loss -= share * (np.log(np.maximum(chosen, 1e-300)).sum() if by_likelihood else chosen.sum())
        gradient += share * (columns.T @ (probability * factor[mention]) - columns[right].T @ factor)
    return loss, gradient


def fit_meaning(sets: list[LabeledSet]) -> dict[str, float]:
    """Weights of the logistic regression, with its constant."""
    columns, is_meant, share = [], [], []
    for labeled in sets:
        ranking = labeled.ranking
        names, every = columns_of(ranking.meaning, ranking.spelling[ranking.best])
        columns.append(every[labeled.counted])
        is_meant.append(labeled.has_right[labeled.counted])
        num = int(labeled.counted.sum())
        share.append(np.full(num, 1000 * labeled.options.meaning / num))
    columns = np.concatenate(columns)
    scale = columns.std(axis=0) + 1e-3
    model = LogisticRegression(C=MEANING_PENALTY, max_iter=1000)
    model.fit(columns / scale, np.concatenate(is_meant), sample_weight=np.concatenate(share))
    weights = dict(zip(names, (model.coef_[0] / scale).tolist(), strict=True))
    return weights | {"constant": float(model.intercept_[0])}


def measure(labeled: LabeledSet, weights: LinkWeights) -> dict[str, float]:
    """Accuracy of given mentions; precision, recall and F1 of found ones; and the calibration of NIL."""
    labeled.rank(weights)
    ranking, counted = labeled.ranking, labeled.counted
    right = ranking.best == labeled.right
    if labeled.options.mentions == "given":
        measured = {"accuracy": float(right[labeled.has_right].mean())}
    else:
        linked = counted & (ranking.is_meant >= MIN_PROBABILITY)
        found, predicted = int((linked & right).sum()), int(linked.sum())
        measured = {
            "precision": found / predicted,
            "recall": found / labeled.num_gold,
            "f1": 2 * found / (predicted + labeled.num_gold),
        }
    return measured | {
        "nil_calibration_error": calibration_error(ranking.is_meant[counted], labeled.has_right[counted])
    }


def calibration_error(probability: np.ndarray, happened: np.ndarray) -> float:
    """Mean distance of probability and frequency over ten bins of equal width, by number."""
    bins = np.minimum((probability * 10).astype(int), 9)
    sums = np.bincount(bins, weights=probability - happened, minlength=10)
    return float(np.abs(sums).sum() / len(probability))


def write_weights(weights: LinkWeights) -> None:
    """Writes the file that the linker reads, with where the numbers come from."""
    document = {
        "fitted": {
            "on": list(SETS),
            "date": date.today().isoformat(),
            "command": "python -m benchmarks.fit_link_weights",
            "how": "choice: softmax, by likelihood, then expected right mentions; meaning: logistic regression",
        },
        "choice": {name: round(value, 3) for name, value in weights.choice.items()},
        "meaning": {name: round(value, 3) for name, value in weights.meaning.items()},
    }
    FILE.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
