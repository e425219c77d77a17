import pytest
import torch
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from modeling_mofi import MofiModel


NAMES = {0: "dark", 1: "light"}


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    torch.manual_seed(0)
    MofiModel(tiny_config).save_pretrained(tmp_path / "mofi")
    return tmp_path / "mofi"


def load(checkpoint):
    torch.manual_seed(0)
    labels = {"id2label": NAMES, "label2id": {name: label for label, name in NAMES.items()}}
    return AutoModelForImageClassification.from_pretrained(checkpoint, num_labels=2, **labels)


def labeled_images(*, seed):
    """Dark and light images with noise, in turn."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(16, 3, 16, 16, generator=generator)
    return [{"pixel_values": noise[i] + 2 * (i % 2) - 1, "labels": i % 2} for i in range(16)]


def fine_tune(model, folder):
    """Trains with the settings that anyone would take from transformers, and returns the losses."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=30,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        logging_steps=10,
        report_to="none",
        use_cpu=True,
        seed=0,
    )
    trainer = Trainer(model, arguments, train_dataset=labeled_images(seed=0), eval_dataset=labeled_images(seed=1))
    trainer.train()
    trainer.save_model()
    predicted = trainer.predict(labeled_images(seed=1))
    accuracy = (predicted.predictions.argmax(-1) == predicted.label_ids).mean()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], accuracy


def test_transformers_own_trainer_fine_tunes_the_classifier(checkpoint, tmp_path):
    model = load(checkpoint)
    losses, accuracy = fine_tune(model, tmp_path / "tuned")
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy == 1
    tuned = AutoModelForImageClassification.from_pretrained(tmp_path / "tuned")
    assert tuned.config.id2label == NAMES
    pixel_values = torch.stack([image["pixel_values"] for image in labeled_images(seed=2)])
    with torch.no_grad():
        assert torch.equal(tuned(pixel_values).logits, model.eval()(pixel_values).logits)


def test_with_the_tower_frozen_only_the_classifier_changes(checkpoint, tmp_path):
    model = load(checkpoint)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.vision_model.requires_grad_(False)
    losses, _ = fine_tune(model, tmp_path / "tuned")
    assert losses[-1] < losses[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
