"""The folder of a knowledge base: whether it is finished, what is left in it, and how much it will take."""

import logging
import shutil
from pathlib import Path

from data_scripts.knowledge_base.store import FORMAT_VERSION, MANIFEST, has_size
from modeling_mofi.whole_files import TEMPORARY, remove_temporary_files, try_read_json


logger = logging.getLogger(__name__)

# Of disk, at most, while the joins and the alias table are made; see benchmarks/results/knowledge_base.json.
BYTES_AN_ENTITY = 2_000


def is_finished(folder: Path, source_hash: str) -> bool:
    """Whether a folder holds the knowledge base whole; the manifest of one with damaged files is taken away.

    Raises:
        ValueError: If it holds one of another source, other settings or another version of this program.
    """
    found = try_read_json(folder / MANIFEST)
    if found is None:
        return False
    if found["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{folder} holds a knowledge base of format {found['format_version']}, this program writes "
            f"{FORMAT_VERSION}. Choose another --output_dir, or delete that one."
        )
    if found["source_hash"] != source_hash:
        raise ValueError(
            f"{folder} holds a knowledge base of another source or other settings ({found['source']}). "
            "Choose another --output_dir, or delete that one."
        )
    sizes = found.get("bytes", {})
    damaged = [name for name, size in sizes.items() if not has_size(folder / name, size)]
    if damaged:
        logger.warning("%s: %s missing or cut short; building it again", folder, ", ".join(damaged))
        (folder / MANIFEST).unlink()
    return not damaged


def clear_leftovers(folder: Path, *, keep: Path | None = None) -> None:
    """Deletes what builds have parsed and made for themselves, and what they had begun to write.

    Args:
        keep: Not what lies in this folder and is whole.
    """
    for path in folder.glob("parts-*"):
        if path == keep:
            remove_temporary_files(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"*{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def say_disk_use(folder: Path, num_entities: int) -> None:
    """Says how much disk the rest of a build takes, joins and what is made on the way included."""
    free = shutil.disk_usage(folder).free
    logger.info(
        f"{num_entities:,} entities are kept; at most {num_entities * BYTES_AN_ENTITY / 1e9:.1f} GB go into {folder} "
        f"({free / 1e9:.1f} GB are free)"
    )
