"""Publishes a checkpoint folder on the Hub: weights, processor, source files and a filled model card.

    python -m modeling_mofi.hub.publishing runs/sample/mofi --repo_id me/mofi --results runs/sample/results.json

Without --repo_id it only writes the card.
"""

import argparse
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import AutoProcessor, PreTrainedModel

from ..user_errors import run_command
from .downloads import is_hub_id
from .failures import explained_failures
from .model_card import CURVE_NAME, ORIGIN_NAME, write_model_card
from .uploads import RECIPE_NAME, public_copy, upload_folder


logger = logging.getLogger(__name__)

# Everything that using or judging a checkpoint needs; optimizer states and logs stay.
PUBLISHED_FILES = (
    *("config.json", "model*.safetensors", "model.safetensors.index.json", "*_mofi.py", "README.md", CURVE_NAME),
    *("processor_config.json", "preprocessor_config.json", "tokenizer*", "special_tokens_map.json", "vocab*"),
    *("merges.txt", RECIPE_NAME, "LICENSE*", "ACKNOWLEDGEMENTS*"),
)
ENTITY_FILES = ("entities.parquet",)
HEAD_FILES = ("entity_head*.safetensors",)
# What a model card is filled from, beside the weights.
CARD_SOURCES = (RECIPE_NAME, ORIGIN_NAME, "training_args.json", "trainer_state.json", "entities.parquet")


def publish_checkpoint(
    folder: str | Path,
    repo_id: str,
    *,
    with_entities: bool = True,
    with_entity_head: bool = False,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload MOFI",
    kept: str | None = None,
    **card: Any,
) -> str:
    """Writes the card and uploads the folder in one commit; the local files stay whatever happens.

    Args:
        folder: Checkpoint with model and processor.
        with_entities: Whether `entities.parquet` goes along, which names the head's rows.
        with_entity_head: Whether to upload the head's rows too, as a separate file.
        revision: Branch to write to, made if it is not there.
        kept: What a message of failure says about where the files are; by default that they are in `folder`.
        card: Keyword arguments of `write_model_card`.

    Returns:
        URL of the commit.

    Raises:
        ValueError: If the folder is no checkpoint.
        ConnectionError: If the Hub is out of reach.
        PermissionError: If there is no token, or one without the right to write.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; give the folder of a trained or converted checkpoint.")
    kept = kept or f"the files are in {folder}"

    def is_on_hub(name: str, kind: str) -> bool:
        with explained_failures(repo_id, kept=kept, token=token):
            return is_hub_id(name) and HfApi(token=token).repo_exists(name, repo_type=kind)

    write_model_card(folder, model_id=repo_id, is_on_hub=is_on_hub, **card)
    patterns = [*PUBLISHED_FILES, *(ENTITY_FILES * with_entities), *(HEAD_FILES * with_entity_head)]
    with public_copy(folder) as public:
        url = upload_folder(
            public,
            repo_id,
            patterns=patterns,
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            kept=kept,
        )
    logger.info("published %s as %s", folder, url)
    return url


def publish_model(model: PreTrainedModel, repo_id: str, **kwargs: Any) -> str:
    """Publishes a model in memory, with the files beside the checkpoint it was loaded from."""
    source = Path(model.name_or_path)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        if model.name_or_path and source.is_dir():
            for name in CARD_SOURCES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, Path(folder) / name)
            if list(source.glob("*processor_config.json")):
                AutoProcessor.from_pretrained(source).save_pretrained(folder)
        return publish_checkpoint(folder, repo_id, kept="the model is still in memory", **kwargs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="checkpoint folder")
    parser.add_argument("--repo_id", help="name on the Hub, user/name; without it only the card is written")
    parser.add_argument("--license", help="license of the weights, in the Hub's words, such as apache-2.0")
    parser.add_argument("--license_name", help="name of the license, for --license other")
    parser.add_argument("--license_link", help="where its text stands: a URL, or LICENSE for a file of the folder")
    parser.add_argument("--dataset", help="Hub id or folder of the training data; by default the one of the recipe")
    parser.add_argument("--results", help="JSON file that evaluate_mofi.py wrote")
    parser.add_argument("--result_name", help="which of the models in --results this is")
    parser.add_argument("--with_entity_head", action="store_true", help="upload the head's rows too")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    args = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, repo_id = args.pop("folder"), args.pop("repo_id")
    if repo_id is None:
        card = {key: value for key, value in args.items() if key not in ("with_entity_head", "private")}
        print(write_model_card(folder, **card))
    else:
        print(publish_checkpoint(folder, repo_id, **args))


if __name__ == "__main__":
    run_command(main)
