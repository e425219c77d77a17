"""Whether a part of the embeddings on disk can be read, or has to be made again."""

import logging
from pathlib import Path

from safetensors import SafetensorError, safe_open


logger = logging.getLogger(__name__)


def is_whole(path: Path) -> bool:
    """Whether a part is there and as long as its header says; a damaged one is reported."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt"):
            return True
    except SafetensorError as error:
        logger.warning("%s is damaged (%s) and is made again", path, error)
        return False
