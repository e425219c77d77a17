"""Entity embeddings for coherence, from the knowledge base's own links and words, a block of entities at a time."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import scipy.sparse
from tqdm import tqdm

from data_scripts.knowledge_base.array_pieces import ranges, write_pieces


# Our defaults; the paper does not say how its graph embeddings were trained.
DIMENSION = 64
LINK_WEIGHTS = (1.0, 0.5)
WORD_WEIGHTS = (0.3, 1.0, 1.0)
SEED = 0
BLOCK_ROWS = 20_000
SILENT_SECONDS = 5.0
# Over the entities: a mean by words after each weight and the sums by word between them, then four by links.
NUM_PASSES = 2 * len(WORD_WEIGHTS) - 1 + 4

# Values of rows: those of row i are `values[offsets[i]:offsets[i + 1]]`.
Ragged = tuple[np.ndarray, np.ndarray]
Block = tuple[int, int]
Result = TypeVar("Result")


@dataclass(frozen=True)
class WordVectors:
    """The vectors of words after each pass, and what the entities' vectors made of them have in common.

    Attributes:
        tokens: Hashed words of the entities.
        columns: Row of each hashed word in the vectors, int32, [2**20].
        vectors: Weighted vectors of the words, one array a pass, float32, [words, D].
        means: Mean of the entities' vectors, one a pass, [D].
    """

    tokens: Ragged
    columns: np.ndarray
    vectors: list[np.ndarray]
    means: list[np.ndarray]

    def matrix(self, block: Block) -> scipy.sparse.csr_array:
        """Which words the entities of a block have, [rows, words]."""
        return incidence(self.tokens, block, len(self.vectors[0]), columns=self.columns)

    def embed(self, block: Block) -> np.ndarray:
        """The entities of a block by their words, float32, [rows, D]."""
        words, total = self.matrix(block), 0.0
        for weight, vectors, mean in zip(WORD_WEIGHTS, self.vectors, self.means, strict=True):
            total = total + weight * center(normalize_rows(words @ vectors), mean)
        return normalize_rows(total)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a number of rows, worked on by threads; results come in order, so that sums are the same."""

    num_rows: int
    num_threads: int
    pool: ThreadPoolExecutor
    bar: tqdm

    def map(self, function: Callable[[Block], Result]) -> Iterator[Result]:
        """Calls a function on the first and last row of each block."""
        blocks = list(ranges(self.num_rows, BLOCK_ROWS))
        # No more at once than there are threads, or results would pile up.
        for first, last in ranges(len(blocks), self.num_threads):
            for block, result in zip(blocks[first:last], self.pool.map(function, blocks[first:last]), strict=True):
                self.bar.update((block[1] - block[0]) / NUM_PASSES)
                yield result

    def mean(self, function: Callable[[Block], np.ndarray]) -> np.ndarray:
        """Mean of the rows that a function gives for each block, zero rows left out, [D]."""
        total, number = np.zeros(DIMENSION), 0
        for rows in self.map(function):
            total += rows.sum(axis=0, dtype=np.float64)
            number += int(rows.any(axis=1).sum())
        return (total / max(1, number)).astype(np.float32)


def write_graph_embeddings(
    path: Path, links: Ragged, tokens: Ragged, *, inverse_frequency: np.ndarray, scratch: Path, num_threads: int = 1
) -> None:
    """Embeds entities so that those with common neighbours are near: very sparse random projection of the graph.

    The graph joins an entity with the entities it links to and with the words of its description and types; the words
    alone serve a knowledge base without links. Deterministic; of what grows with the entities only the signs (8 bytes
    each) are held in memory. What is needed again is computed again: that takes less time than keeping it on disk.

    Args:
        path: Gets float16 [entities, D], unit length (zero for an entity without neighbours).
        links: Offsets [entities + 1] and linked entity rows; mapped.
        tokens: Offsets [entities + 1] and hashed tokens; mapped.
        inverse_frequency: Weight of each token, [2**20].
        scratch: Folder for a file of 256 bytes an entity.

    Source: FastRP (https://arxiv.org/abs/1908.11512).
    """
    generator = np.random.default_rng(SEED)
    num_rows = len(tokens[0]) - 1
    bar = tqdm(total=num_rows, desc="embeddings", unit=" entities", unit_scale=True, delay=SILENT_SECONDS)
    with ThreadPoolExecutor(num_threads) as pool, bar:
        blocks = Blocks(num_rows, num_threads, pool, bar)
        words = embed_words(tokens, blocks, generator, inverse_frequency=inverse_frequency)
        signs = [
            np.packbits(generator.integers(0, 2, (last - first, DIMENSION), dtype=np.int8), axis=1)
            for first, last in ranges(num_rows, BLOCK_ROWS)
        ]
        sum_signs = partial(sum_of_signs, links, np.concatenate(signs) if signs else np.zeros((0, 8), np.uint8))
        mean = blocks.mean(sum_signs)
        first_step = scratch / "first_step.npy"
        write_pieces(
            first_step, blocks.map(lambda block: center(sum_signs(block), mean) + words.embed(block)), np.float32
        )
        sum_steps = partial(sum_of_rows, links, first_step)
        second_mean = blocks.mean(sum_steps)

        def embed(block: Block) -> np.ndarray:
            first = read_rows(first_step, block)
            by_words = first - center(sum_signs(block), mean)
            second = center(sum_steps(block), second_mean) + by_words
            return normalize_rows(LINK_WEIGHTS[0] * normalize_rows(first) + LINK_WEIGHTS[1] * normalize_rows(second))

        write_pieces(path, blocks.map(embed), np.float16)
        first_step.unlink()


def embed_words(
    tokens: Ragged, blocks: Blocks, generator: np.random.Generator, *, inverse_frequency: np.ndarray
) -> WordVectors:
    """Embeds entities by their words, and words by their entities in turn: what shares no word may yet be near."""
    is_used = np.zeros(len(inverse_frequency), bool)
    for first, last in ranges(len(tokens[1]), BLOCK_ROWS * 10):
        is_used[tokens[1][first:last]] = True
    used = np.flatnonzero(is_used)
    columns = (np.cumsum(is_used) - 1).astype(np.int32)
    weights = inverse_frequency[used][:, None]
    words = WordVectors(tokens, columns, [random_signs(generator, len(used)) * weights], [])
    for _ in WORD_WEIGHTS:
        vectors = words.vectors[-1]
        words.means.append(blocks.mean(lambda block, by=vectors: normalize_rows(words.matrix(block) @ by)))
        if len(words.means) < len(WORD_WEIGHTS):
            following = np.zeros_like(vectors)
            for rows, sums in blocks.map(partial(sum_by_word, words)):
                following[rows] += sums
            words.vectors.append(normalize_rows(following) * weights)
    return words


def sum_by_word(words: WordVectors, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """The words of a block, and for each the sum of the entities that have it, by the vectors of the last pass."""
    matrix = words.matrix(block)
    entities = center(normalize_rows(matrix @ words.vectors[-1]), words.means[-1])
    rows, local = np.unique(matrix.indices, return_inverse=True)
    of_block = scipy.sparse.csr_array((matrix.data, local, matrix.indptr), shape=(matrix.shape[0], len(rows)))
    return rows, of_block.T @ entities


def sum_of_signs(links: Ragged, signs: np.ndarray, block: Block) -> np.ndarray:
    """Unit sums of the random signs of the entities that those of a block link to, [rows, D]."""
    return sum_of_targets(links, block, lambda rows: np.unpackbits(signs[rows], axis=1).astype(np.float32) * 2 - 1)


def sum_of_rows(links: Ragged, path: Path, block: Block) -> np.ndarray:
    """Unit sums of the rows, of an array in a file, of the entities that those of a block link to, [rows, D]."""
    # Mapped anew: what was read does not stay in this process's memory.
    return sum_of_targets(links, block, lambda rows: np.load(path, mmap_mode="r")[rows])


def sum_of_targets(links: Ragged, block: Block, vectors_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Unit sums of vectors of the entities that those of a block link to; each target's vector is asked for once."""
    offsets, targets = links
    rows, local = np.unique(targets[offsets[block[0]] : offsets[block[1]]], return_inverse=True)
    if len(rows) == 0:
        return np.zeros((block[1] - block[0], DIMENSION), np.float32)
    indptr = offsets[block[0] : block[1] + 1] - offsets[block[0]]
    ones = np.ones(len(local), np.float32)
    matrix = scipy.sparse.csr_array((ones, local, indptr), shape=(len(indptr) - 1, len(rows)))
    return normalize_rows(matrix @ vectors_of(rows))


def incidence(ragged: Ragged, block: Block, num_columns: int, *, columns: np.ndarray) -> scipy.sparse.csr_array:
    """A block of rows with values as a sparse matrix of ones, [rows, columns]."""
    offsets, values = ragged
    indptr = offsets[block[0] : block[1] + 1] - offsets[block[0]]
    found = columns[values[offsets[block[0]] : offsets[block[1]]]]
    return scipy.sparse.csr_array(
        (np.ones(len(found), np.float32), found, indptr), shape=(len(indptr) - 1, num_columns)
    )


def center(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Unit rows without what all have in common, which would make any two entities near; zero rows stay zero."""
    return normalize_rows((rows - mean) * np.any(rows, axis=1, keepdims=True))


def random_signs(generator: np.random.Generator, rows: int) -> np.ndarray:
    """Rows of random signs, float32, [rows, D]."""
    return generator.integers(0, 2, (rows, DIMENSION), dtype=np.int8).astype(np.float32) * 2 - 1


def read_rows(path: Path, block: Block) -> np.ndarray:
    """A block of the rows of an array in a file."""
    return np.load(path, mmap_mode="r")[block[0] : block[1]]


def normalize_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length; a zero row stays zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return rows / np.maximum(norms, 1e-12)
