"""Finds the longest alias matches in a text, on token boundaries, plural and possessive endings allowed.

What the alias table says about a run of tokens is remembered for the next text that has the same run.
"""

from functools import lru_cache
from typing import ClassVar

from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.text.letter_case import text_case
from data_scripts.text.tokens import MAX_KEY_LENGTH, STRONG_SEPARATOR, TokenizedText, tokenize_text


# What may follow an alias up to the end of its last token: plural and possessive endings, or a number (`cone2.png`).
ENDINGS = frozenset({"s", "es", "'s", "s'"})
MAX_ENDING = 3
MIN_STEM = 3
# About 30 MB in each worker when all are words that no alias begins with.
MAX_RUNS = 200_000

# start, end, alias index
Match = tuple[int, int, int]


class TokenRun:
    """Some tokens that follow one another in a text, and what the alias table says about them.

    Attributes:
        words: The tokens.
        ends: Where each token ends in `key`.
        key: The tokens, joined.
        num_matched: Tokens of the longest alias that begins where the run does and ends in it; 0 if there is none.
        alias: Index of that alias; -1 if there is none.
        is_number: Whether that alias is only numbers and single letters.
        is_function: Whether that alias is only function words.
        longer: The runs with one token more, by what joins it and the token; None where no alias goes on.
    """

    __slots__ = ("alias", "ends", "is_function", "is_number", "key", "longer", "num_matched", "words")

    def __init__(self, shorter: "TokenRun | None", joint: str, word: str, matcher: "AliasMatcher") -> None:
        self.words = (*shorter.words, word) if shorter else (word,)
        self.key = shorter.key + joint + word if shorter else word
        self.ends = (*shorter.ends, len(self.key)) if shorter else (len(self.key),)
        self.num_matched, self.alias = longest_alias(self.key, self.ends, matcher.kb)
        self.is_number = self.is_function = False
        if self.alias >= 0:
            words = self.words[: self.num_matched]
            self.is_number = all(word.isdigit() or (len(word) == 1 and word.isascii()) for word in words)
            self.is_function = matcher.stop_words.issuperset(words)
        self.longer: dict[str, dict[str, TokenRun] | None] = {}


class NoRun:
    """Stands for every token that begins no alias; most words of a large corpus are such, and seen once."""

    alias = -1
    longer: ClassVar[dict[str, None]] = dict.fromkeys((" ", "", STRONG_SEPARATOR))


NO_RUN = NoRun()


class AliasMatcher:
    """The alias table of a knowledge base with the function words of a language."""

    def __init__(self, kb: KnowledgeBase, stop_words: frozenset[str]) -> None:
        self.kb = kb
        self.stop_words = stop_words
        self.runs: dict[str, TokenRun | NoRun] = {}
        self.num_runs = 0

    def match(self, text: str) -> list[Match]:
        """Longest alias matches from left to right, none of them only numbers or only function words."""
        tokens = tokenize_text(text)
        if tokens.cuts:
            tokens = self.join_known(tokens)
        words, joints = tokens.words, tokens.joints
        found: list[Match] = []
        first, num_words = 0, len(words)
        while first < num_words:
            run = self.runs.get(words[first]) or self.first_run(words[first])
            last = first + 1
            while last < num_words:
                joint = joints[last - 1]
                try:
                    longer = run.longer[joint]
                except KeyError:
                    longer = self.open_run(run, joint)
                if longer is None:
                    break
                run = longer.get(words[last]) or self.longer_run(run, joint, words[last])
                last += 1
            if run.alias < 0:
                first += 1
                continue
            last = first + run.num_matched
            start, end = tokens.starts[first], tokens.ends[last - 1]
            is_dropped = run.is_number or (run.is_function and not (first > 0 and is_name(text, start)))
            if not is_dropped:
                found.append((start, end, run.alias))
            first = last
        return found

    def join_known(self, tokens: TokenizedText) -> TokenizedText:
        """The tokens with `YouTube` of `#YouTube` in one piece, as it has an alias, and `GiantPanda` still in two."""
        starts, ends, words, joints = (list(values) for values in tokens[:4])
        for first, last in reversed(tokens.cuts):
            word = "".join(words[first : last + 1])
            if word in self.kb.aliases:
                starts[first : last + 1], ends[first : last + 1] = [starts[first]], [ends[last]]
                words[first : last + 1], joints[first:last] = [word], []
        return TokenizedText(starts, ends, words, joints, tokens.key)

    def first_run(self, word: str) -> TokenRun | NoRun:
        """The run of a single token, looked up and remembered."""
        if self.num_runs >= MAX_RUNS:
            self.runs.clear()
            self.num_runs = 0
        self.num_runs += 1
        run = TokenRun(None, "", word, self)
        begins_alias = run.alias >= 0 or next(self.kb.aliases.iterkeys(word), None) is not None
        self.runs[word] = run if begins_alias else NO_RUN
        return self.runs[word]

    def longer_run(self, run: TokenRun, joint: str, word: str) -> TokenRun:
        """A run with one token more, looked up and remembered."""
        self.num_runs += 1
        longer = run.longer[joint][word] = TokenRun(run, joint, word, self)
        return longer

    def open_run(self, run: TokenRun, joint: str) -> dict[str, TokenRun] | None:
        """The dictionary of the runs that go on with a joint; None if no alias does."""
        prefix = run.key + joint
        goes_on = len(prefix) < MAX_KEY_LENGTH and next(self.kb.aliases.iterkeys(prefix), None) is not None
        run.longer[joint] = {} if goes_on else None
        return run.longer[joint]


@lru_cache(maxsize=4)
def open_matcher(kb: KnowledgeBase, language: str) -> AliasMatcher:
    """The matcher of a knowledge base, once per process."""
    return AliasMatcher(kb, read_stop_words(language))


@lru_cache(maxsize=8)
def read_stop_words(language: str) -> frozenset[str]:
    """Function words of a language, from spaCy's own lists."""
    import spacy  # Imports torch, which takes seconds.

    return frozenset(spacy.util.get_lang_class(language).Defaults.stop_words)


def longest_alias(key: str, ends: tuple[int, ...], kb: KnowledgeBase) -> tuple[int, int]:
    """Number of tokens and index of the longest alias at the beginning of a key; (0, -1) if there is none."""
    best = (0, -1)
    for prefix, alias in kb.aliases.iter_prefixes_with_ids(key[:MAX_KEY_LENGTH]):
        num_tokens = tokens_reached(key, ends, len(prefix))
        if num_tokens >= max(1, best[0]):
            best = (num_tokens, alias)
    if best[1] < 0 and ends[0] > MIN_STEM + 3 and key.endswith("ies", 0, ends[0]):
        alias = kb.aliases.get(key[: ends[0] - 3] + "y", -1)
        best = (1, alias) if alias >= 0 else best
    return best


def tokens_reached(key: str, ends: tuple[int, ...], end: int) -> int:
    """Tokens that a match up to `end` covers, at most a plural, possessive ending or number left out; else 0."""
    for index, token_end in enumerate(ends):
        if token_end == end:
            return index + 1
        if token_end > end:
            ending = key[end:token_end]
            is_ending = ending in ENDINGS or (ending.isdigit() and len(ending) <= MAX_ENDING)
            return index + 1 if is_ending and end >= MIN_STEM else 0
    return 0


def is_name(text: str, start: int) -> bool:
    """Whether function words inside a text are written as a name, with a capital where others have none."""
    return text[start : start + 1].isupper() and text_case(text) == "mixed"
