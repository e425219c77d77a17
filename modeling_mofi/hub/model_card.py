"""The model card of a checkpoint folder: the template model_card.md, filled with what the folder itself says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from transformers import PreTrainedConfig

from ..bundled import bundled
from ..configuration_mofi import MofiConfig
from ..whole_files import read_json, try_read_json, write_text
from .downloads import is_hub_id
from .licenses import check_license
from .loss_curve import draw_loss_curve
from .templates import fill_card


CURVE_NAME, ORIGIN_NAME = "training_curve.png", "origin.json"
SETTINGS = (
    *("recipe", "dataset", "init_from", "max_steps", "num_train_epochs", "per_device_train_batch_size", "world_size"),
    *("gradient_accumulation_steps", "learning_rate", "entity_learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "entity_loss_weight", "entity_scale"),
    *("entity_margin", "num_sampled_entities", "text_proportions", "augmentation", "bf16", "seed"),
)


def write_model_card(
    folder: str | Path,
    *,
    model_id: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    dataset: str | None = None,
    results: str | Path | None = None,
    result_name: str | None = None,
    notice: str | None = None,
    is_on_hub: Callable[[str, str], bool] = lambda name, kind: is_hub_id(name),
) -> Path:
    """Writes `README.md`, and `training_curve.png` where the folder has a log, and returns the card's path.

    Args:
        folder: A checkpoint as `MofiTrainer` or `save_pretrained` leaves it.
        model_id: Name on the Hub; the folder's name by default.
        license: The Hub's word for the license of the weights; by default that of `origin.json`, if there is one.
        license_name, license_link: Of another license than those the Hub knows, which is `other`.
        dataset: Hub id or folder of the training data; by default the one in the folder's recipe.
        results: JSON file of `evaluate_mofi.py`, whose metrics become the card's `model-index`.
        result_name: Which of its models this is, if it holds several.
        notice: Where the weights come from and on which terms; by default as a conversion's `origin.json` says.
        is_on_hub: Whether the Hub has a repository, by name and kind (`model`, `dataset`); by default if it could.

    Raises:
        ValueError: If `results` holds several models and none is named like this one, or the license is none.
    """
    folder = Path(folder)
    terms = {"license": license, "license_name": license_name, "license_link": license_link}
    check_license(license, name=license_name, link=license_link)
    origin = try_read_json(folder / ORIGIN_NAME) or {}
    settings = read_settings(folder)
    model_id = model_id or folder.resolve().name
    dataset, base_model = dataset or settings.get("dataset"), settings.get("init_from")
    has_dataset = bool(dataset) and is_on_hub(dataset, "dataset")
    eval_results = [] if results is None else find_results(results, folder, [result_name, model_id])
    metadata = make_metadata(
        terms if license else {name: origin.get(name) for name in terms},
        dataset=dataset if has_dataset else None,
        base_model=base_model if base_model and is_on_hub(base_model, "model") else None,
        model_name=model_id,
        eval_results=eval_results,
    )
    card = fill_card(
        bundled("model_card.md"),
        ModelCard,
        metadata,
        **describe(MofiConfig.from_pretrained(folder), folder),
        title=model_id.split("/")[-1],
        model_id=model_id,
        notice=notice or origin.get("notice"),
        **describe_training(settings, dataset, folder),
        dataset=dataset,
        is_on_hub=has_dataset,
        eval_results=eval_results,
    )
    write_text(folder / "README.md", card)
    return folder / "README.md"


def make_metadata(
    terms: dict[str, str | None],
    *,
    dataset: str | None,
    base_model: str | None,
    model_name: str,
    eval_results: list[EvalResult],
) -> ModelCardData:
    """What the Hub itself reads of a card.

    Args:
        terms: License, and its name and link where it is another one than the Hub knows.
    """
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["mofi", "image-retrieval", "entity-recognition", "clip"],
        **terms,
        datasets=[dataset] if dataset else None,
        base_model=base_model,
        model_name=model_name if eval_results else None,
        eval_results=eval_results or None,
    )


def describe_training(settings: dict[str, Any], dataset: str | None, folder: Path) -> dict[str, Any]:
    """What the template says of the run, whose losses it draws beside the card."""
    state = read_state(folder)
    return {
        "recipe": settings.get("recipe"),
        "settings": {name: settings[name] for name in SETTINGS if settings.get(name) not in (None, {}, "", -1)},
        "state": state,
        "curve_name": CURVE_NAME,
        "has_curve": draw_loss_curve(state.get("log_history", []), folder / CURVE_NAME),
        "counts": read_counts(dataset) if settings.get("recipe") != "contrastive" else "",
    }


def read_settings(folder: Path) -> dict[str, Any]:
    """The run's recipe, completed by its training arguments; empty for a folder without either."""
    settings: dict[str, Any] = {}
    for name in ("training_args.json", "recipe.json"):
        if (folder / name).is_file():
            settings |= read_json(folder / name)
    return settings


def read_state(folder: Path) -> dict[str, Any]:
    """`trainer_state.json` of the folder, or of its last checkpoint."""
    checkpoints = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    found = [path for path in (folder / "trainer_state.json", *reversed(checkpoints)) if path.is_file()]
    return read_json(found[0]) if found else {}


def describe(config: MofiConfig, folder: Path) -> dict[str, Any]:
    """The template's fields that come from the configuration."""
    vision, text = config.vision_config, config.text_config
    return {
        "image_tower": describe_tower(vision),
        "text_tower": describe_tower(text) if config.has_text_tower else None,
        "projection_dim": config.projection_dim,
        "max_tokens": text.max_position_embeddings,
        "image_size": vision.image_size,
        "num_entities": config.num_entities or 0,
        "has_names": bool((folder / "entities.parquet").is_file() and config.num_entities),
    }


def describe_tower(config: PreTrainedConfig) -> str:
    """Type, depth, width, and what an image tower sees, as far as its configuration says them."""
    words = f"a {config.model_type.replace('_', ' ')}"
    depth, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    words += f" of {depth} layers and width {width}" if depth and width else ""
    patch, size = getattr(config, "patch_size", None), getattr(config, "image_size", None)
    return f"{words} on {patch}-pixel patches of {size}-pixel images" if patch and size else words


def read_counts(dataset: str | None) -> str:
    """What the card of a dataset on this machine says of its counts; nothing for one on the Hub."""
    card = Path(dataset or "") / "README.md"
    if not dataset or not card.is_file():
        return ""
    _, _, counts = card.read_text(encoding="utf-8").partition("\n## Counts\n")
    return counts.partition("\n## ")[0].strip()


def find_results(results: str | Path, folder: Path, names: list[str | None]) -> list[EvalResult]:
    """What an evaluation found for this model: by name, by folder, or because it is the only one."""
    path = Path(results)
    path = path if path.name.endswith(".model-index.json") else path.with_suffix(".model-index.json")
    entries = {entry["name"]: model_index_to_eval_results([entry])[1] for entry in read_json(path)["model-index"]}
    here = [name for name in entries if Path(name).resolve() == folder.resolve()]
    for name in [*names, *here]:
        if name in entries:
            return entries[name]
    if len(entries) <= 1:
        return [result for found in entries.values() for result in found]
    raise ValueError(f"{path} holds several models ({', '.join(entries)}); say which one this is with result_name.")
