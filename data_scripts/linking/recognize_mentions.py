"""Finds the spans of an alt-text that may name an entity: spaCy NER spans and the longest alias matches, together."""

from functools import lru_cache
from typing import TYPE_CHECKING

from data_scripts.knowledge_base.store import KnowledgeBase, open_knowledge_base
from data_scripts.linking.match import Match, open_matcher
from data_scripts.linking.statistics import open_text_statistics
from data_scripts.linking.typos import match_typos
from data_scripts.schema import DROP_REASON, Batch, Mention
from data_scripts.text.tokens import alias_key


if TYPE_CHECKING:
    import spacy

# Kinds of spaCy entities that are no things: they only say that a number is a number.
NUMBER_LABELS = frozenset({"CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME"})


class FoundMention(Mention):
    """A mention with its index in the alias table, -1 for a name that the table lacks; the index is not published."""

    alias: int


def recognize_mentions(
    batch: Batch,
    *,
    knowledge_base: str,
    language: str = "en",
    spacy_model: str | None = None,
    typos: str | None = None,
    batch_size: int = 1000,
) -> Batch:
    """Adds `mentions`: spans that index the original `alt_text`, in its order, none overlapping another.

    A span found by both ways has the recognizer `alias+ner`; an alias inside a longer name that NER found and the
    alias table does not know has `alias in ner` (the `Apple` of `Fiona Apple`). Texts in which no alias matches are
    not shown to the NER model: without an alias there is no candidate. Equal texts are read once.

    Args:
        batch: Column `alt_text`.
        knowledge_base: Folder of a built knowledge base.
        spacy_model: Name or path of a spaCy pipeline with `ner`; alias matches alone if None.
        typos: File of `learn_statistics`, if rare words of texts without a match may be aliases with a letter wrong.
    """
    kb = open_knowledge_base(knowledge_base)
    match = open_matcher(kb, language).match
    texts = batch["alt_text"]
    matches = {text: match(text) for text in dict.fromkeys(texts)}
    if typos is not None:
        frequent = set(open_text_statistics(typos).frequent_tokens.tolist())
        matches |= {text: match_typos(text, kb, frequent) for text, found in matches.items() if not found}
    spans: dict[str, list[tuple[int, int]]] = {}
    if spacy_model is not None:
        candidates = [text for text, found in matches.items() if found]
        spans = find_names(candidates, spacy_model=spacy_model, batch_size=batch_size)
    mentions = {text: join_mentions(text, found, spans.get(text, []), kb) for text, found in matches.items()}
    batch["mentions"] = [mentions[text] for text in texts]
    batch[DROP_REASON] = [None if mentions[text] else "no mention" for text in texts]
    return batch


@lru_cache(maxsize=2)
def open_spacy(model: str) -> "spacy.Language":
    """Loads a spaCy pipeline with only what NER needs.

    Raises:
        OSError: If the model is not installed.
        ValueError: If the pipeline has no `ner`.
    """
    import spacy  # Imports torch, which takes seconds.

    nlp = spacy.load(model)
    if "ner" not in nlp.pipe_names:
        raise ValueError(f"spaCy pipeline {model!r} has no `ner` component, only {nlp.pipe_names}")
    needed = [name for name in ("transformer", "tok2vec", "ner") if name in nlp.pipe_names]
    nlp.select_pipes(enable=needed)
    return nlp


def find_names(texts: list[str], *, spacy_model: str, batch_size: int) -> dict[str, list[tuple[int, int]]]:
    """Spans that the NER model calls a name, per text; of a text longer than it takes, those at the beginning."""
    nlp = open_spacy(spacy_model)
    shown = [cut_text(text, nlp.max_length) for text in texts]
    # Outside a zone spaCy keeps every word that it ever saw: a worker grew by more than half a KiB with each new one.
    with nlp.memory_zone():
        return {
            text: [(span.start_char, span.end_char) for span in doc.ents if span.label_ not in NUMBER_LABELS]
            for text, doc in zip(texts, nlp.pipe(shown, batch_size=batch_size), strict=True)
        }


def cut_text(text: str, max_length: int) -> str:
    """The beginning of a text, cut between two words."""
    return text if len(text) <= max_length else (text[:max_length].rsplit(maxsplit=1) or [""])[0]


def join_mentions(
    text: str, matches: list[Match], names: list[tuple[int, int]], kb: KnowledgeBase
) -> list[FoundMention]:
    """Joins alias matches and NER spans; where they overlap, the longest span with candidates stays."""
    if not names:
        # As `make_mention`, without a call for each: most texts come here.
        return [
            {"text": text[start:end], "start": start, "end": end, "recognizer": "alias", "alias": alias}
            for start, end, alias in matches
        ]
    recognizers: dict[Match, str] = dict.fromkeys(matches, "alias")
    unknown: list[tuple[int, int]] = []
    for start, end in names:
        alias = kb.aliases.get(alias_key(text[start:end]), -1)
        if alias >= 0:
            known = (start, end, alias)
            recognizers[known] = "alias+ner" if known in recognizers else "ner"
        else:
            unknown.append((start, end))
    kept: list[Match] = []
    for match in sorted(recognizers, key=lambda match: (match[0] - match[1], match[0])):
        if all(match[1] <= start or end <= match[0] for start, end, _ in kept):
            kept.append(match)
    for start, end in unknown:
        inside = [
            match for match in kept if start <= match[0] and match[1] <= end and match[1] - match[0] < end - start
        ]
        recognizers.update((match, "alias in ner") for match in inside if recognizers[match] == "alias")
        if all(match[1] <= start or end <= match[0] for match in kept):
            recognizers[(start, end, -1)] = "ner"
            kept.append((start, end, -1))
    return [make_mention(text, *match, recognizers[match]) for match in sorted(kept)]


def make_mention(text: str, start: int, end: int, alias: int, recognizer: str) -> FoundMention:
    """The mention of a span."""
    return {"text": text[start:end], "start": start, "end": end, "recognizer": recognizer, "alias": alias}
