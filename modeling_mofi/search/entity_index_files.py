"""Files of an entity index: their names, their card on the Hub, and reading them with care."""

import os
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open

from ..data.entity_table import ids_sha256


try:
    import httpx2 as httpx  # What huggingface_hub 2 talks with.
except ImportError:
    import httpx

VECTORS_NAME, ENTITIES_NAME, SETTINGS_NAME = "entity_index.safetensors", "entity_index.parquet", "entity_index.json"
CARD = """---
library_name: transformers
tags: [mofi, entity-recognition]
base_model: {checkpoint}
---

# {repo_id}

{count:,} entities as vectors, by which [{checkpoint}](https://huggingface.co/{checkpoint}) names what an image shows.

```python
from modeling_mofi.search.entity_index import EntityIndex

index = EntityIndex.from_pretrained("{repo_id}")
index.search(images, k=5)  # entity_id, name, description, similarity, confidence
```
"""

Entities = dict[str, list[str]]


def download(name: str | os.PathLike, patterns: list[str]) -> Path:
    """The folder itself, or a copy of the files of a repository on the Hub.

    Raises:
        ValueError: If there is neither.
        ConnectionError: If the Hub is out of reach and the files were never downloaded.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ValueError(f"{name} is no folder here, and no repository on the Hub that you may read.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, httpx.TransportError) as error:
        raise ConnectionError(
            f"{name} is no folder here, and the Hub is out of reach ({type(error).__name__}). Check the name, the "
            "network and HF_HUB_OFFLINE."
        ) from error


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
