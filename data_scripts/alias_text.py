"""Turns a text into tokens whose joined, normalised form can be looked up in the alias table.

Names and alt-texts go through the same function, so `Coca-Cola`, `coca_cola.png` and `COCA COLA` meet at `coca cola`.
Every token keeps its place in the original text; case, separators and width are forgotten only in the key.
"""

import re
import unicodedata
import zlib
from dataclasses import dataclass
from functools import lru_cache


# Scripts written without spaces: there every character is a token, with the marks that belong to it.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff\u200c\u200d"
)
THAI_LIKE_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b6-\u17d3"
TOKEN = re.compile(
    rf"[{UNSPACED}][{THAI_LIKE_MARKS}]*|[^\W_{UNSPACED}](?:[^\W_{UNSPACED}]|[{MARKS}]|['’](?=[^\W\d_])|[+#])*"
)
ASCII_TOKEN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9+#]|'(?=[A-Za-z]))*")
# An alias may run across these, but not across a comma, a bar or a bracket: `red, panda` is not a red panda.
WEAK_GAP = re.compile(r"[\s_\-./&'’‐‑־·!?]*\Z")
STRONG_SEPARATOR = "\x1f"
FILE_NAME = re.compile(r"\S+\.(?:avif|bmp|gif|jpe?g|png|svg|tiff?|webp)\Z", re.IGNORECASE)
CAMEL_CASE = re.compile(r"[a-z](?=[A-Z][a-z])")
HASH_BITS = 20
MAX_KEY_LENGTH = 100


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Tokens of a text.

    Attributes:
        spans: Where each token starts and ends in the original text.
        key_starts: Where each token starts in `key`.
        key_ends: Where each token ends in `key`.
        key: The normalised tokens, joined by a space, by nothing (scripts without spaces) or by `STRONG_SEPARATOR`.
    """

    spans: list[tuple[int, int]]
    key_starts: list[int]
    key_ends: list[int]
    key: str


@lru_cache(maxsize=4096)
def tokenize_text(text: str) -> TokenizedText:
    """Finds the tokens of a text in any script, and of a file name with its camel case taken apart."""
    is_ascii = text.isascii()
    spans = [match.span() for match in (ASCII_TOKEN if is_ascii else TOKEN).finditer(text)]
    if len(spans) < 8 and FILE_NAME.match(text):
        spans = split_camel_case(text, spans)
    lowered = text.lower() if is_ascii else ""
    pieces: list[str] = []
    key_starts: list[int] = []
    key_ends: list[int] = []
    position = 0
    previous_end = -1
    for start, end in spans:
        if previous_end >= 0:
            gap = text[previous_end:start]
            joint = joint_of(gap) if gap else joint_without_gap(text, start)
            pieces.append(joint)
            position += len(joint)
        token = lowered[start:end] if is_ascii else normalize_token(text[start:end])
        pieces.append(token)
        key_starts.append(position)
        position += len(token)
        key_ends.append(position)
        previous_end = end
    return TokenizedText(spans, key_starts, key_ends, "".join(pieces))


@lru_cache(maxsize=10_000)
def joint_of(gap: str) -> str:
    """What stands in the key for what stands between two tokens."""
    return " " if WEAK_GAP.match(gap) else STRONG_SEPARATOR


def joint_without_gap(text: str, start: int) -> str:
    """What stands between tokens that touch: nothing in scripts without spaces, else they were camel case."""
    return "" if is_unspaced(text[start]) or is_unspaced(text[start - 1]) else " "


def is_unspaced(character: str) -> bool:
    """Whether the character belongs to a script that is written without spaces."""
    return character >= "\u0e00" and re.match(f"[{UNSPACED}]", character) is not None


def split_camel_case(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cuts `RedPanda` of `RedPanda.png` in two; only file names are cut, `iPhone` in a sentence is a word."""
    pieces = []
    for start, end in spans:
        for cut in [match.end() for match in CAMEL_CASE.finditer(text, start, end)]:
            pieces.append((start, cut))
            start = cut
        pieces.append((start, end))
    return pieces


@lru_cache(maxsize=100_000)
def normalize_token(token: str) -> str:
    """One spelling for one word: compatibility forms and case are folded."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", token).casefold()).replace("’", "'")


def alias_key(alias: str) -> str:
    """The key of a name in the alias table; empty if the name has no letter or digit."""
    return tokenize_text(alias).key


def hash_token(word: str) -> int:
    """A number below 2**20 for a word, the same in every process and on every machine."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) & ((1 << HASH_BITS) - 1)


def content_tokens(key: str) -> list[str]:
    """The words of a key as context, in the singular so that `flags` and `flag` meet; numbers are left out."""
    return [singular(token) for token in key.replace(STRONG_SEPARATOR, " ").split() if not token.isdigit()]


def hashed_words(text: str) -> tuple[int, ...]:
    """Distinct hashed content words of a text, in order."""
    words = map(hash_content_token, tokenize_text(text).key.replace(STRONG_SEPARATOR, " ").split())
    return tuple(dict.fromkeys(word for word in words if word >= 0))


@lru_cache(maxsize=100_000)
def hash_content_token(token: str) -> int:
    """The hash of a token's singular; -1 for a number."""
    return -1 if token.isdigit() else hash_token(singular(token))


def singular(token: str) -> str:
    """A crude English singular; it only has to map both forms of a word to one string."""
    if len(token) > 4 and token.endswith("ies"):
        return token[:-3] + "y"
    if len(token) > 3 and token.endswith("s") and token[-2] not in "su":
        return token[:-1]
    return token
