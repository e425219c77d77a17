"""The tries of a knowledge base's aliases: one, or for a large one several that look like one."""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import marisa_trie
import numpy as np


def alias_file(index: int, num_shards: int) -> str:
    """Name of the file of a trie."""
    return "aliases.marisa" if num_shards == 1 else f"aliases-{index:03d}.marisa"


def open_aliases(folder: Path, starts: np.ndarray) -> "marisa_trie.Trie | AliasTries":
    """Maps the tries of a folder.

    Args:
        starts: Of each trie, the code of the first character that its keys may begin with, and its first alias index;
            [tries, 2].
    """
    tries = []
    for index in range(len(starts)):
        tries.append(marisa_trie.Trie())
        tries[-1].mmap(str(folder / alias_file(index, len(starts))))
    return tries[0] if len(tries) == 1 else AliasTries(tries, starts)


class AliasTries:
    """Several tries, the keys of each of which begin with characters of a range, with the methods of one.

    A key and all that it begins with are in one trie, so that each look-up asks one.
    """

    def __init__(self, tries: list[marisa_trie.Trie], starts: np.ndarray) -> None:
        self.tries = tries
        self.first_characters, self.first_aliases = starts.T.tolist()
        self.of_character = TriesOfCharacters(self)

    def __len__(self) -> int:
        return sum(map(len, self.tries))

    def __contains__(self, key: str) -> bool:
        return key[:1] != "" and key in self.of_character[key[0]][0]

    def __getitem__(self, key: str) -> int:
        trie, first = self.of_character[key[0]]
        return trie[key] + first

    def get(self, key: str, default: int | None = None) -> int | None:
        """Alias index of a key."""
        if key not in self:
            return default
        return self[key]

    def iter_prefixes_with_ids(self, key: str) -> list[tuple[str, int]]:
        """All aliases that a key begins with, and their indexes."""
        trie, first = self.of_character[key[0]]
        return [(prefix, alias + first) for prefix, alias in trie.iter_prefixes_with_ids(key)]

    def iterkeys(self, prefix: str) -> Iterator[str]:
        """All aliases that begin with something."""
        return self.of_character[prefix[0]][0].iterkeys(prefix)

    def restore_key(self, alias: int) -> str:
        """The key of an alias index."""
        place = bisect_right(self.first_aliases, alias) - 1
        return self.tries[place].restore_key(alias - self.first_aliases[place])


class TriesOfCharacters(dict[str, tuple[marisa_trie.Trie, int]]):
    """The trie of the keys with a first character, and its first alias index; found once."""

    def __init__(self, aliases: AliasTries) -> None:
        super().__init__()
        self.aliases = aliases

    def __missing__(self, character: str) -> tuple[marisa_trie.Trie, int]:
        place = bisect_right(self.aliases.first_characters, ord(character)) - 1
        found = self[character] = (self.aliases.tries[place], self.aliases.first_aliases[place])
        return found
