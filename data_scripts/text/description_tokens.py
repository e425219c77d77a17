"""The hashed words of every entity's name and description, by which `link_entities` compares them with a text."""

import numpy as np
import pyarrow as pa

from data_scripts.text.tokens import alias_key, content_tokens, hash_token


def token_table(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and hashed words of every entity's name, description and types, distinct and ascending."""
    offsets = np.zeros(table.num_rows + 1, dtype=np.int64)
    tokens: list[np.ndarray] = []
    row = 0
    for batch in table.select(["name", "description"]).to_batches(max_chunksize=10_000):
        for name, description in zip(batch["name"].to_pylist(), batch["description"].to_pylist(), strict=True):
            words = content_tokens(alias_key(f"{name} | {description}"))
            hashed = np.unique(np.array([hash_token(word) for word in words], dtype=np.int32))
            tokens.append(hashed)
            offsets[row + 1] = offsets[row] + len(hashed)
            row += 1
    return offsets, np.concatenate(tokens) if tokens else np.zeros(0, np.int32)


def token_norms(tokens: tuple[np.ndarray, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Length of the vector of each entity's weighted tokens, float32, [entities]."""
    offsets, words = tokens
    entity = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    squares = np.bincount(entity, weights=weights[words].astype(np.float64) ** 2, minlength=len(offsets) - 1)
    return np.sqrt(squares).astype(np.float32)
