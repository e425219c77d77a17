"""What the names and descriptions of a chunk of entities say, in the form in which the arrays are made of it.

Chunks are worked on by several processes, and each leaves a file: a build that was stopped goes on.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_scripts.engine.files import save_arrays
from data_scripts.engine.jobs import Job, Part, one_by_one
from data_scripts.knowledge_base.store import CASELESS, COMMON, ONLY_CAPITALS, OWN_NAME, PROPER
from data_scripts.text.columns import alias_keys, count_column_cases, flatten, hashed_content
from data_scripts.text.tokens import HASH_BITS, MAX_KEY_LENGTH


def names_job(entities: Path, folder: Path, *, config_hash: str) -> Job:
    """Writes the alias keys of each chunk of the entity table."""
    work = partial(one_by_one, partial(write_names, entities))
    return Job("names", folder / "names", config_hash, work)


def words_job(entities: Path, folder: Path, *, config_hash: str) -> Job:
    """Writes the words of each chunk of the entity table, and how its descriptions and names are spelled."""
    work = partial(one_by_one, partial(write_words, entities))
    return Job("words", folder / "words", config_hash, work, suffix=".npz")


def list_chunks(entities: Path) -> list[Part]:
    """The chunks of an entity table."""
    return [Part(f"{index:06d}", index) for index in range(open_chunks(entities).num_record_batches)]


def open_chunks(entities: Path) -> pa.ipc.RecordBatchFileReader:
    """The entity table, mapped."""
    return pa.ipc.open_file(pa.memory_map(str(entities)))


def write_names(entities: Path, chunk: Part, path: Path) -> None:
    """Writes the distinct keys of every entity with the bits of `candidate_forms`; columns row, key, form, weight.

    The weight is one more than the sitelinks.
    """
    reader = open_chunks(entities)
    batch = reader.get_batch(chunk.index)
    first_row = sum(reader.get_batch(index).num_rows for index in range(chunk.index))
    owner, aliases = flatten(batch["aliases"])
    names = batch["name"].cast(pa.large_string())
    row = np.r_[np.arange(len(names)), owner]
    written = pa.concat_arrays([names, aliases.cast(pa.large_string())])
    keys = alias_keys(written)
    is_own = pc.equal(keys, keys.slice(0, len(names)).take(pa.array(row))).to_numpy(zero_copy_only=False)
    length = pc.utf8_length(keys).to_numpy()
    kept = np.flatnonzero((length > 0) & (length <= MAX_KEY_LENGTH))
    is_capital = is_only_capitals(written, keys).to_numpy(zero_copy_only=False)
    codes = keys.dictionary_encode().indices.to_numpy()
    order = kept[np.lexsort((codes[kept], row[kept]))]
    starts = np.flatnonzero(np.r_[True, np.diff(row[order] << 32 | codes[order]) != 0][: len(order)])
    first = order[starts]
    # Of several aliases with one key, an entity has it in capitals alone if all of them are so.
    form = ONLY_CAPITALS * group(np.logical_and, is_capital[order], starts) + OWN_NAME * is_own[first]
    weight = batch["num_sitelinks"].to_numpy().astype(np.float32)[row[first]] + 1
    columns = {
        "row": (row[first] + first_row).astype(np.int32),
        "key": keys.take(pa.array(first)),
        "form": form.astype(np.int8),
        "weight": weight,
    }
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=1)


def group(function: np.ufunc, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Joins the values of each group; none where there is no group."""
    return function.reduceat(values, starts) if len(starts) else values


def is_only_capitals(written: pa.Array, keys: pa.Array) -> pa.Array:
    """`str.isupper` of names of more than one letter."""
    has_more = pc.greater(pc.utf8_length(keys), 1)
    is_cased = pc.not_equal(pc.utf8_upper(written), pc.utf8_lower(written))
    return pc.and_(has_more, pc.and_(is_cased, pc.utf8_is_upper(written)))


def write_words(entities: Path, chunk: Part, path: Path) -> None:
    """Writes what a chunk adds to `token_offsets`, `tokens`, `is_proper` and the counts of case."""
    batch = open_chunks(entities).get_batch(chunk.index)
    names, descriptions = batch["name"].cast(pa.large_string()), batch["description"].cast(pa.large_string())
    texts = pc.binary_join_element_wise(names, descriptions, pa.scalar(" | ", pa.large_string()))
    offsets, tokens = hashed_content(alias_keys(texts))
    lower, capital = np.zeros((2, 1 << HASH_BITS), np.int64)
    count_column_cases(descriptions, lower, capital)
    words = np.flatnonzero(lower | capital)
    save_arrays(
        path,
        num_tokens=np.diff(offsets),
        tokens=tokens,
        is_proper=spellings(names),
        words=words,
        lower=lower[words],
        capital=capital[words],
    )


def spellings(names: pa.Array) -> np.ndarray:
    """Whether each name is written as a proper noun, a common noun, or in a script without case, int8."""
    is_ascii = pc.string_is_ascii(names).to_numpy(zero_copy_only=False)
    has_upper = pc.match_substring_regex(names, "[A-Z]").to_numpy(zero_copy_only=False)
    has_lower = pc.match_substring_regex(names, "[a-z]").to_numpy(zero_copy_only=False)
    found = np.where(has_upper, PROPER, np.where(has_lower, COMMON, CASELESS)).astype(np.int8)
    others = np.flatnonzero(~is_ascii)
    found[others] = [spelling(name) for name in names.take(pa.array(others)).to_pylist()]
    return found


def spelling(name: str) -> int:
    """Whether a name is written as a proper noun, a common noun, or in a script without case."""
    first = next((character for character in name if character.isalpha()), "")
    if first.lower() == first.upper():
        return CASELESS
    return PROPER if any(character.isupper() for character in name) else COMMON
