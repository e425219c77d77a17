"""The model card of a checkpoint folder: the template model_card.md, filled with what the folder itself says."""

import json
from pathlib import Path
from string import Template
from typing import Any

import yaml

from ..bundled import bundled
from ..configuration_mofi import MofiConfig
from .loss_curve import draw_loss_curve
from .public_text import public_setting


CURVE_NAME = "training_curve.png"
RECIPE_SENTENCES = {
    "multi-task": " Its image encoder learned at once to tell {entities} entities apart and to match texts.",
    "supervised": " Its image encoder learned to tell {entities} entities apart; its text tower is untrained.",
    "contrastive": " Its two towers learned to match images and texts, without classifying entities.",
}
SETTINGS = (
    *("recipe", "dataset", "init_from", "max_steps", "num_train_epochs", "per_device_train_batch_size", "world_size"),
    *("gradient_accumulation_steps", "learning_rate", "entity_learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "entity_loss_weight", "entity_scale"),
    *("entity_margin", "num_sampled_entities", "text_proportions", "augmentation", "bf16", "seed"),
)
TRAINED_HERE = "It was trained with the open implementation of MOFI for Hugging Face."
ENTITIES_USE = """
The folder knows {count:,} entities by name (`entities.parquet`). To name what an image shows:

```python
from modeling_mofi.search.entity_index import EntityIndex

index = EntityIndex.from_checkpoint("{model_id}")
index.search(images, k=5)  # entity_id, name, description, similarity, confidence
```
"""


def write_model_card(
    folder: str | Path,
    *,
    model_id: str | None = None,
    license: str | None = None,
    dataset: str | None = None,
    results: str | Path | None = None,
    result_name: str | None = None,
    notice: str | None = None,
) -> Path:
    """Writes `README.md`, and `training_curve.png` where the folder has a log, and returns the card's path.

    Args:
        folder: A checkpoint as `MofiTrainer` or `save_pretrained` leaves it.
        model_id: Name on the Hub; the folder's name by default.
        license: The Hub's word for the license of the weights; left out by default.
        dataset: Hub id or folder of the training data; by default the one in the folder's recipe.
        results: JSON file of `evaluate_mofi.py`, whose metrics become the card's `model-index`.
        result_name: Which of the file's models this is, if it holds several.
        notice: Where the weights come from and on which terms, if they were not trained here.

    Raises:
        ValueError: If `results` holds several models and none is named like this one.
    """
    folder = Path(folder)
    config = MofiConfig.from_pretrained(folder)
    recipe = read_settings(folder)
    model_id = model_id or folder.resolve().name
    dataset = dataset or recipe.get("dataset")
    model_index = [] if results is None else find_results(results, folder, [result_name, model_id])
    front_matter = {
        "library_name": "transformers",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["mofi", "image-retrieval", "entity-recognition", "clip"],
        **({"license": license} if license else {}),
        **({"datasets": [dataset]} if dataset and is_hub_id(dataset) else {}),
        **({"base_model": recipe["init_from"]} if is_hub_id(recipe.get("init_from") or "") else {}),
        **({"model-index": [{**entry, "name": model_id} for entry in model_index]} if model_index else {}),
    }
    fields = describe(config, folder, recipe=recipe, dataset=dataset, model_id=model_id)
    body = Template(bundled("model_card.md").read_text(encoding="utf-8")).substitute(
        fields,
        title=model_id.split("/")[-1],
        model_id=model_id,
        evaluation=results_table(model_index),
        origin=notice or TRAINED_HERE,
    )
    card = folder / "README.md"
    card.write_text(f"---\n{yaml.safe_dump(front_matter, sort_keys=False)}---\n\n{body}", encoding="utf-8")
    return card


def read_settings(folder: Path) -> dict[str, Any]:
    """The run's recipe, completed by its training arguments; empty for a folder without either."""
    settings: dict[str, Any] = {}
    for name in ("training_args.json", "recipe.json"):
        if (folder / name).is_file():
            settings |= json.loads((folder / name).read_text(encoding="utf-8"))
    return settings


def is_hub_id(name: str) -> bool:
    """Whether a name is `user/name` and no path on this machine."""
    return name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists()


def describe(
    config: MofiConfig, folder: Path, *, recipe: dict[str, Any], dataset: str | None, model_id: str
) -> dict[str, Any]:
    """The template's fields that come from the checkpoint folder."""
    vision, text = config.vision_config, config.text_config
    architecture = (
        f"a vision transformer of {vision.num_hidden_layers} layers and width {vision.hidden_size} on "
        f"{vision.patch_size}-pixel patches of {vision.image_size}-pixel images, beside a text transformer of "
        f"{text.num_hidden_layers} layers and width {text.hidden_size}"
    )
    sentence = RECIPE_SENTENCES.get(recipe.get("recipe", ""), "")
    has_names = (folder / "entities.parquet").is_file() and config.num_entities
    return {
        "architecture": architecture,
        "projection_dim": config.projection_dim,
        "max_tokens": text.max_position_embeddings,
        "image_size": vision.image_size,
        "recipe_sentence": sentence.format(entities=f"{config.num_entities:,}"),
        "entities_use": ENTITIES_USE.format(count=config.num_entities, model_id=model_id) if has_names else "",
        "training": describe_training(folder, recipe),
        "curve": describe_curve(folder),
        "data": describe_data(dataset, recipe_name=recipe.get("recipe")),
    }


def describe_training(folder: Path, recipe: dict[str, Any]) -> str:
    """A table of the settings that decide the result, and what the run took."""
    if not recipe:
        return "How these weights were trained is not recorded in the checkpoint."
    rows = [f"| `{name}` | {short(recipe[name])} |" for name in SETTINGS if recipe.get(name) not in (None, {}, "", -1)]
    table = "\n".join(["| setting | value |", "|---|---|", *rows])
    state = read_state(folder)
    steps = state.get("global_step")
    return f"{table}\n\nThe run took {steps:,} steps, {state.get('epoch', 0):.1f} epochs." if steps else table


def short(value: Any) -> str:
    """A setting's value for a table cell."""
    value = public_setting(value)
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return "`" + " ".join(text.replace("`", "'").replace("|", "\\|").split()) + "`"


def read_state(folder: Path) -> dict[str, Any]:
    """`trainer_state.json` of the folder, or of its last checkpoint."""
    checkpoints = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    for path in (folder / "trainer_state.json", *reversed(checkpoints)):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}


def describe_curve(folder: Path) -> str:
    """Draws the losses and gives the line that shows them."""
    log = read_state(folder).get("log_history", [])
    return f"![Losses over training steps]({CURVE_NAME})\n" if draw_loss_curve(log, folder / CURVE_NAME) else ""


def describe_data(dataset: str | None, *, recipe_name: str | None) -> str:
    """Names the training data, with the counts from its own card where there is one."""
    if not dataset:
        return "The training data are not recorded in the checkpoint."
    name = f"[{dataset}](https://huggingface.co/datasets/{dataset})" if is_hub_id(dataset) else short(dataset)
    if recipe_name == "contrastive":
        return f"{name}: images and their alt-texts."
    text = (
        f"{name}. Alt-texts were searched for names, names linked to a knowledge base by frequency and by the other "
        "names of the text, and an entity stayed where a CLIP-like model found that the image shows it."
    )
    card = Path(dataset) / "README.md"
    if not card.is_file():
        return text
    _, found, counts = card.read_text(encoding="utf-8").partition("\n## Counts\n")
    return f"{text}\n\n{counts.split(chr(10) + '## ')[0].strip()}" if found else text


def find_results(results: str | Path, folder: Path, names: list[str | None]) -> list[dict[str, Any]]:
    """The `model-index` entry of this model in an evaluation: by name, by folder, or because it is the only one."""
    path = Path(results)
    path = path if path.name.endswith(".model-index.json") else path.with_suffix(".model-index.json")
    entries = json.loads(path.read_text(encoding="utf-8"))["model-index"]
    for name in filter(None, names):
        if named := [entry for entry in entries if entry["name"] == name]:
            return named
    here = [entry for entry in entries if Path(entry["name"]).resolve() == folder.resolve()]
    if here or len(entries) <= 1:
        return here or entries
    known = ", ".join(entry["name"] for entry in entries)
    raise ValueError(f"{path} holds several models ({known}); say which one this is with result_name.")


def results_table(model_index: list[dict[str, Any]]) -> str:
    """Metrics by dataset."""
    rows = [
        f"| {result['dataset']['name']} | {result['task'].get('name', result['task']['type'])} | {metric['type']} | "
        f"{metric['value']:.4f} |"
        for entry in model_index
        for result in entry["results"]
        for metric in result["metrics"]
    ]
    if not rows:
        return "Not evaluated yet. Run `evaluate_mofi.py` and write the card again with its results."
    return "\n".join(["| data | task | metric | value |", "|---|---|---|---|", *rows])
