"""Tiny models, tokenizers and datasets, made in place; nothing here touches the network or the user's caches."""

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent))  # For `tiny` and `processes`, which child processes import too.

import pytest
import torch
from tiny import make_tiny_config, make_tiny_processor, make_tiny_tokenizer, write_i2e, write_pairs


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config():
    return make_tiny_config()


@pytest.fixture
def tiny_tokenizer():
    return make_tiny_tokenizer()


@pytest.fixture
def tiny_processor():
    return make_tiny_processor()


@pytest.fixture
def tiny_pairs(tmp_path) -> Path:
    """Folder of 24 image and alt-text pairs."""
    return write_pairs(tmp_path / "pairs")


@pytest.fixture
def tiny_i2e(tmp_path) -> Path:
    """Folder of 24 entity-labeled images."""
    return write_i2e(tmp_path / "i2e")


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Lets no file grow beyond some bytes for a while: writing fails in the system itself, as on a full disk."""

    @contextmanager
    def limit(num_bytes: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
