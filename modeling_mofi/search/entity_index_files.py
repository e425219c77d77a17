"""Files of an entity index: their names, their card on the Hub, and reading them with care."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..data.entity_table import ids_sha256


VECTORS_NAME, ENTITIES_NAME, SETTINGS_NAME = "entity_index.safetensors", "entity_index.parquet", "entity_index.json"
CARD = Path(__file__).with_name("index_card.md.jinja")

Entities = dict[str, list[str]]


def read_vectors(path: Path, entities: Entities) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors `[N, D]` and probe `[2, D]` of a saved index, once they fit its entities."""
    try:
        with safe_open(path, framework="pt") as file:
            vectors, written_probe = file.get_tensor("vectors"), file.get_tensor("probe")
            written = (file.metadata() or {}).get("entities")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or incomplete ({error}); copy it again.") from error
    if ids_sha256(entities["entity_id"]) != written or len(entities["name"]) != len(vectors):
        raise ValueError(f"{ENTITIES_NAME} and {VECTORS_NAME} in {path.parent} come from different indexes.")
    return vectors, written_probe
