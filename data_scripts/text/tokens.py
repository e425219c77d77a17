"""Turns a text into tokens whose joined, normalised form can be looked up in the alias table.

Names and alt-texts go through the same function, so `Coca-Cola`, `coca_cola.png` and `COCA COLA` meet at `coca cola`.
Every token keeps its place in the original text; case, separators and width are forgotten only in the key.
"""

import itertools
import re
import unicodedata
import zlib
from functools import lru_cache
from typing import NamedTuple

from data_scripts.text.web_text import FILLER, INVISIBLE, read_web_text


# Scripts written without spaces: there every character is a token, with the marks that belong to it.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
MARKS = "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
UNSPACED_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b6-\u17d3"
UNSPACED_MARKS += "\u3099\u309a\uff9e\uff9f"
# Letters to Unicode that look like a space.
BLANKS = "\u115f\u1160\u3164\uffa0"
APOSTROPHES = "'’‘ʼʻ´`′"
WORD_CHARACTER = rf"[^\W_{UNSPACED}{BLANKS}]"
# `C++` and `C#` are words, `giant+panda` and `#giant#panda` are two.
TOKEN = re.compile(
    rf"([{UNSPACED}](?:[{INVISIBLE}]*[{UNSPACED_MARKS}])*|{WORD_CHARACTER}(?:{WORD_CHARACTER}+|[{MARKS}{FILLER}]+"
    rf"|[{INVISIBLE}]+(?=[{MARKS}]|{WORD_CHARACTER})|[{APOSTROPHES}](?={FILLER}*[^\W\d_]))*"
    rf"(?:[+#](?!{FILLER}*{WORD_CHARACTER})[+#{FILLER}]*)?)"
)
ASCII_TOKEN = re.compile(r"([A-Za-z0-9]+(?:'(?=[A-Za-z])[A-Za-z0-9]+)*(?:[+#](?![A-Za-z0-9])[+#]*)?)")
# An alias may run across these, but not across a comma, a bar or a bracket: `red, panda` is not a red panda.
WEAK_GAP = re.compile(rf"(?:[\s_\-./&{APOSTROPHES}‐‑־·!?\u2800{BLANKS}{FILLER}]*|[+–−]{FILLER}*)\Z")
UNSEEN = re.compile(f"[{INVISIBLE}{FILLER}]")
ONE_APOSTROPHE = dict.fromkeys(map(ord, APOSTROPHES), "'")
# The dot that folding leaves of a capital İ, and the accent that Greek capitals go without.
CASE_MARKS = re.compile("(?<=i)\u0307|(?<=[\u03b1-\u03c9])\u0301|(?<=[\u03b1-\u03c9]\u0308)\u0301")
STRONG_SEPARATOR = "\x1f"
FILE_NAME = re.compile(r"\S+\.(?:avif|bmp|gif|jpe?g|png|svg|tiff?|webp)(?:[?#]\S*)?\Z", re.IGNORECASE)
LATER_LETTERS = [chr(code) for code in range(0x80, 0x590)]
LOWER = "a-z" + "".join(filter(str.islower, LATER_LETTERS))
UPPER = "A-Z" + "".join(filter(str.isupper, LATER_LETTERS))
# `RedPanda`, `VisitUSA`, `NYCMarathon` and `RedPanda2019`, but not `PDFs`.
CAMEL_CASE = re.compile(
    rf"(?<=[{LOWER}])(?=[{UPPER}])|(?<=[{UPPER}])(?=[{UPPER}][{LOWER}]{{2}})|(?<=[{LOWER}])(?=\d{{4}}\Z)"
)
MAX_FILE_NAME_TOKENS = 8
HASH_BITS = 20
MAX_CONTENT_HASHES = 200_000
MAX_KEY_LENGTH = 100


class TokenizedText(NamedTuple):
    """Tokens of a text.

    Attributes:
        starts: Where each token starts in the original text.
        ends: Where each token ends there.
        words: The normalised tokens.
        joints: What joins each token to the next: a space, nothing (scripts without spaces) or `STRONG_SEPARATOR`.
        key: Words and joints in one.
        cuts: First and last token of each word in camel case that was cut.
    """

    starts: list[int]
    ends: list[int]
    words: list[str]
    joints: list[str]
    key: str
    cuts: tuple[tuple[int, int], ...] = ()


# Two batches: a text is matched and then compared. Long texts take 80 KB each.
@lru_cache(maxsize=2048)
def tokenize_text(text: str) -> TokenizedText:
    """Finds the tokens of a text in any script as a reader sees them; camel case of file names and hashtags is cut."""
    shown = read_web_text(text)
    is_ascii = shown.isascii()
    # A pattern with a group splits into gap, token, gap, token, ..., gap.
    parts = ASCII_TOKEN.split(shown.lower()) if is_ascii else TOKEN.split(shown)
    cuts: tuple[tuple[int, int], ...] = ()
    is_file_name = len(parts) < 2 * MAX_FILE_NAME_TOKENS and "." in text and FILE_NAME.match(text) is not None
    if is_file_name or "#" in shown:
        parts, cuts = split_camel_case(ASCII_TOKEN.split(shown) if is_ascii else parts, hashtags_only=not is_file_name)
        parts = [part.lower() for part in parts] if is_ascii else parts
    ends = list(itertools.accumulate(map(len, parts)))
    starts = ends[:-1:2]
    gaps = parts[2:-1:2] if is_ascii else list(map(visible_part, parts[2:-1:2]))
    joints = list(map(joint_of, gaps))
    if "" in gaps:
        joints = [
            joint if gap else joint_without_gap(shown, ends[2 * i - 1], starts[i])
            for i, (gap, joint) in enumerate(zip(gaps, joints, strict=True), start=1)
        ]
    parts = parts[1:-1]
    if not is_ascii:
        parts[::2] = map(normalize_token, parts[::2])
    parts[1::2] = joints
    return TokenizedText(starts, ends[1::2], parts[::2], joints, "".join(parts), cuts)


@lru_cache(maxsize=10_000)
def visible_part(gap: str) -> str:
    """What a reader sees between two tokens."""
    return UNSEEN.sub("", gap)


@lru_cache(maxsize=10_000)
def joint_of(gap: str) -> str:
    """What stands in the key for what stands between two tokens."""
    return " " if WEAK_GAP.match(gap) else STRONG_SEPARATOR


def joint_without_gap(text: str, end: int, start: int) -> str:
    """What stands between tokens that touch: nothing in scripts without spaces, else they were camel case."""
    return "" if is_unspaced(text[start]) or is_unspaced(text[end - 1]) else " "


def is_unspaced(character: str) -> bool:
    """Whether the character belongs to a script that is written without spaces."""
    return character >= "\u0e00" and re.match(f"[{UNSPACED}]", character) is not None


def split_camel_case(parts: list[str], *, hashtags_only: bool) -> tuple[list[str], tuple[tuple[int, int], ...]]:
    """Cuts `RedPanda` of `RedPanda.png` or `#RedPanda` in two; `iPhone` in a sentence is a word.

    Returns:
        Gaps and tokens in turn, and the first and last token of each word that was cut.
    """
    split, cuts = parts[:1], []
    for before, token, after in zip(parts[:-2:2], parts[1::2], parts[2::2], strict=True):
        is_cut = not hashtags_only or before.rstrip(FILLER).endswith("#")
        pieces = CAMEL_CASE.split(token) if is_cut and not (token.isalpha() and token.islower()) else [token]
        if len(pieces) > 1:
            first = len(split) // 2
            cuts.append((first, first + len(pieces) - 1))
        for piece in pieces:
            split += (piece, "")
        split[-1] = after
    return split, tuple(cuts)


@lru_cache(maxsize=100_000)
def normalize_token(token: str) -> str:
    """One spelling for one word: compatibility forms, case, apostrophes and what nobody sees are folded.

    Case as in Turkish and Greek too: `İZMİR` is `İzmir` and `Izmir`, `IĞDIR` is `Iğdır`, `ΑΘΗΝΑ` is `Αθήνα`.
    """
    token = UNSEEN.sub("", token).translate(ONE_APOSTROPHE)
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", token).casefold())
    return unicodedata.normalize("NFKC", CASE_MARKS.sub("", folded.replace("ı", "i")))


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
    tokens = tokenize_text(text)
    # Scripts without spaces have one word between two spaces, whatever its tokens.
    words = tokens.words if "" not in tokens.joints else tokens.key.replace(STRONG_SEPARATOR, " ").split()
    if len(CONTENT_HASHES) > MAX_CONTENT_HASHES:
        CONTENT_HASHES.clear()
    hashed = dict.fromkeys(map(CONTENT_HASHES.__getitem__, words))
    hashed.pop(-1, None)
    return tuple(hashed)


@lru_cache(maxsize=50_000)
def hashed_mention_words(mention: str) -> tuple[int, ...]:
    """`hashed_words` of a mention; the same mentions come again and again."""
    return hashed_words(mention)


class ContentHashes(dict[str, int]):
    """The hash of each token's singular, -1 for a number; made when first asked for."""

    def __missing__(self, token: str) -> int:
        found = self[token] = -1 if token.isdigit() else hash_token(singular(token))
        return found


CONTENT_HASHES = ContentHashes()


def singular(token: str) -> str:
    """A crude English singular; it only has to map both forms of a word to one string."""
    if len(token) > 4 and token.endswith("ies"):
        return token[:-3] + "y"
    if len(token) > 3 and token.endswith("s") and token[-2] not in "su":
        return token[:-1]
    return token
