"""Linear probe: multinomial logistic regression on frozen embeddings, fitted by L-BFGS."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from evaluation.benchmark import Benchmark, Embedder, Scores, embedded_labels
from evaluation.label_sets import class_table, classes_of, weighted_by_class
from evaluation.labeled_images import LabeledImages


logger = logging.getLogger(__name__)

HELD_OUT = 0.2  # Part of the training images that chooses the regularization.
LOGITS_PER_CHUNK = 2**26  # 256 MiB of fp32
MAX_ITERATIONS = 1000


def evaluate_linear_probe(
    benchmark: Benchmark, embedder: Embedder, *, query: LabeledImages, gallery: LabeledImages | None = None
) -> Scores:
    """Trains on the gallery, tests on the query images; `per class` is the mean over classes of their accuracies.

    A training image with several labels shall have equal probabilities for them; of a test image any label is right.
    """
    if gallery is None:
        raise ValueError("linear_probe needs --gallery (and --gallery_split): the images that it trains on.")
    if gallery.fingerprint == query.fingerprint:
        raise ValueError(
            f"linear_probe would train and test on the same images, {query.name}; give another --gallery."
        )
    trained_on, tested_on = embedder(gallery), embedder(query)
    device = embedder.encoder.device
    train_labels, labels = embedded_labels(gallery, trained_on), embedded_labels(query, tested_on)
    classes = classes_of(train_labels)
    train_embeds, train_targets = trained_on.image_embeds.to(device), class_table(train_labels, classes).to(device)
    chosen = choose_regularization(train_embeds, train_targets, benchmark.regularization)
    probe = fit_probe(train_embeds, train_targets, regularization=chosen)
    targets = class_table(labels, classes).to(device)
    correct = is_right(probe.predict(tested_on.image_embeds.to(device)), targets).double().cpu().numpy()
    if unknown := int((targets < 0).all(dim=1).sum()):
        if unknown == len(labels):
            raise ValueError(
                f"{query.name} and {gallery.name} have no class in common: {labels[0]!r}, ... and {classes[0]!r}, ..."
            )
        logger.warning("%d test images have a class without training images and count as wrong", unknown)
    by_query = {"accuracy": correct, "per class": weighted_by_class(correct, labels)}
    counts = {"classes": len(classes), "training_images": len(train_targets)}
    return Scores(by_query, query=tested_on, gallery=trained_on, counts=counts, chosen={"C": chosen})


@dataclass
class Probe:
    """A fitted linear classifier.

    Attributes:
        weight: Shape (classes, D).
        bias: Shape (classes,).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def predict(self, image_embeds: torch.Tensor) -> torch.Tensor:
        """Class of each row, int64 of shape (rows,)."""
        rows = max(1, LOGITS_PER_CHUNK // len(self.bias))
        return torch.cat([F.linear(part, self.weight, self.bias).argmax(dim=1) for part in image_embeds.split(rows)])


def choose_regularization(image_embeds: torch.Tensor, targets: torch.Tensor, regularization: list[float]) -> float:
    """The C that classifies a held-out part of the training images best; the smallest of equally good ones.

    Args:
        regularization: Values of C, as scikit-learn's: a larger C regularizes less. A single one is used as given.
    """
    if len(regularization) == 1:
        return regularization[0]
    is_held_out = hold_out(targets)
    if not is_held_out.any():
        logger.warning("no class has two training images: C is %g, not chosen", regularization[0])
        return regularization[0]
    best, best_accuracy, start = regularization[0], -1.0, None
    for value in sorted(regularization):
        start = fit_probe(
            image_embeds[~is_held_out],
            targets[~is_held_out],
            regularization=value,
            start=start,
            num_classes=int(targets.max()) + 1,
        )
        predicted = start.predict(image_embeds[is_held_out])
        accuracy = is_right(predicted, targets[is_held_out]).double().mean().item()
        if accuracy > best_accuracy:
            best, best_accuracy = value, accuracy
    if best in (min(regularization), max(regularization)):
        logger.warning("the best C, %g, is at the end of the sweep; widen --regularization", best)
    return best


def hold_out(targets: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
    """Marks a random fifth of each class, at least one image of a class that has two, bool of shape (rows,).

    An image with several classes is drawn with the first of them.
    """
    generator = np.random.default_rng(seed)
    is_held_out = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
    for target in targets[:, 0].unique():
        rows = torch.where(targets[:, 0] == target)[0].cpu().numpy()
        count = min(max(1, round(HELD_OUT * len(rows))), len(rows) - 1)
        is_held_out[generator.permutation(rows)[:count]] = True
    return is_held_out


def is_right(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether the predicted class is one of each row's, bool of shape (rows,)."""
    return (targets == predicted[:, None]).any(dim=1)


def summed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy with equal probabilities of a row's classes, summed over rows."""
    if targets.shape[1] == 1:
        return F.cross_entropy(logits, targets[:, 0], reduction="sum")
    is_class = targets >= 0
    log_probabilities = logits.log_softmax(dim=1).gather(1, targets.clamp(min=0))
    return -((log_probabilities * is_class).sum(dim=1) / is_class.sum(dim=1)).sum()


def fit_probe(
    image_embeds: torch.Tensor,
    targets: torch.Tensor,
    *,
    regularization: float,
    start: Probe | None = None,
    num_classes: int | None = None,
) -> Probe:
    """Minimizes C * sum of cross entropies + |weight|^2 / 2, as scikit-learn's LogisticRegression does.

    Args:
        image_embeds: Shape (rows, D), on the device that fits.
        targets: Classes of each row, int64 of shape (rows, most classes of a row); -1 fills up.
        start: Where to start; a solution for another C saves most iterations.
    """
    num_rows, dim = image_embeds.shape
    num_classes = num_classes or int(targets.max()) + 1
    weight = image_embeds.new_zeros(num_classes, dim) if start is None else start.weight.clone()
    bias = image_embeds.new_zeros(num_classes) if start is None else start.bias.clone()
    weight.requires_grad_(True)
    bias.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )
    rows = max(1, LOGITS_PER_CHUNK // num_classes)

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        total = weight.square().sum() / (2 * regularization * num_rows)
        total.backward()
        for embeds, wanted in zip(image_embeds.split(rows), targets.split(rows), strict=True):
            loss = summed_cross_entropy(F.linear(embeds, weight, bias), wanted) / num_rows
            loss.backward()
            total = total + loss.detach()
        return total.detach()

    optimizer.step(objective)
    if optimizer.state[weight]["n_iter"] >= MAX_ITERATIONS:
        logger.warning("the linear probe at C=%g stopped after %d iterations", regularization, MAX_ITERATIONS)
    return Probe(weight.detach(), bias.detach())
