"""Prompt templates and class names of zero-shot classification, from files here or beside a dataset on the Hub."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from evaluation.label_sets import classes_of
from evaluation.labeled_images import LabeledImages
from modeling_mofi.bundled import find_config


logger = logging.getLogger(__name__)

FILE_OF_DATA_SET = re.compile(r"([\w.-]+/[\w.-]+):(.+)")


def read_prompts(prompts: str, data: str) -> list[str]:
    """Templates with `{}` where the name of the class goes.

    Args:
        prompts: A text file with one template a line, or `file.json:name` for one of several lists in a file.
        data: The dataset; a file that is not here is looked for beside it on the Hub. `owner/name:file` is a file of
            another dataset there.

    Raises:
        FileNotFoundError: If the file is neither here nor there.
        ValueError: If a template has no place for the name.
    """
    path, _, name = prompts.partition(".json:")
    if name:
        lists = json.loads(find_file(f"{path}.json", data).read_text(encoding="utf-8-sig"))
        if name not in lists:
            raise ValueError(f"{path}.json has no list {name!r}, only {', '.join(lists)}.")
        templates = lists[name]
    else:
        lines = find_file(prompts, data).read_text(encoding="utf-8-sig").splitlines()
        templates = [line for line in lines if line.strip()]
    templates = [template.replace("{c}", "{}") for template in templates]  # As CLIP benchmark's files write it.
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(f"{prompts} has the template {wrong[0]!r} without {{}}." if wrong else f"{prompts} is empty.")
    return templates


def read_class_names(class_names: str | None, images: LabeledImages, data: str) -> dict[Any, str]:
    """Name of each class by label, in the order of the labels.

    Args:
        class_names: A text file with one name a line, in the order of the labels 0, 1, ..., or a JSON file that maps
            labels to names. None takes the names that the dataset knows, or labels that are strings. An empty line
            within the file is an empty name, as CLEVR's fourth distance has in CLIP benchmark.

    Raises:
        ValueError: If a label has no name.
    """
    present = classes_of(images.labels)
    if class_names is None:
        names = images.label_names or {label: label for label in present if isinstance(label, str)}
        names = {label: name.replace("_", " ") for label, name in names.items()}
    elif class_names.endswith(".json"):
        mapping = json.loads(find_file(class_names, data).read_text(encoding="utf-8-sig"))
        names = {type(present[0])(label): name for label, name in mapping.items()}
    else:
        lines = find_file(class_names, data).read_text(encoding="utf-8-sig").rstrip().splitlines()
        names = dict(enumerate(map(str.strip, lines)))
    missing = [label for label in present if label not in names]
    if missing:
        raise ValueError(f"Labels without a name: {missing[:10]}; give --class_names, a JSON file of label to name.")
    unnamed = [label for label in present if not names[label]]
    if unnamed:
        logger.warning("%s: the names of %s are empty", class_names or data, ", ".join(map(str, unnamed[:10])))
    return names


def find_file(name: str, data: str) -> Path:
    """A file by its path, or of a dataset on the Hub."""
    if (found := find_config(name)) is not None:
        return found
    if other := FILE_OF_DATA_SET.fullmatch(name):
        data, name = other.groups()
    elif Path(data).exists():
        raise FileNotFoundError(f"{name} does not exist.")
    try:
        return Path(hf_hub_download(data.partition(":")[0], name, repo_type="dataset"))
    except (EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise FileNotFoundError(f"{name} is neither here nor in the dataset {data} on the Hub: {error}") from error
