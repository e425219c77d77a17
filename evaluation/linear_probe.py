"""Linear probe: multinomial logistic regression on frozen embeddings, fitted by L-BFGS."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from evaluation.benchmark import Benchmark, Embedder, Scores, embedded_labels
from evaluation.labeled_images import LabeledImages
from evaluation.zero_shot import weighted_by_class


logger = logging.getLogger(__name__)

HELD_OUT = 0.2  # Part of the training images that chooses the regularization.
LOGITS_PER_CHUNK = 2**26  # 256 MiB of fp32
MAX_ITERATIONS = 1000


def evaluate_linear_probe(
    benchmark: Benchmark, embedder: Embedder, *, query: LabeledImages, gallery: LabeledImages | None = None
) -> Scores:
    """Trains on the gallery, tests on the query images; `per class` is the mean over classes of their accuracies."""
    if gallery is None:
        raise ValueError("linear_probe needs --gallery (and --gallery_split): the images that it trains on.")
    if gallery.fingerprint == query.fingerprint:
        raise ValueError(
            f"linear_probe would train and test on the same images, {query.name}; give another --gallery."
        )
    trained_on, tested_on = embedder(gallery), embedder(query)
    device = embedder.encoder.device
    classes, train_targets = np.unique(np.asarray(embedded_labels(gallery, trained_on)), return_inverse=True)
    train_embeds, train_targets = trained_on.image_embeds.to(device), torch.from_numpy(train_targets).to(device)
    chosen = choose_regularization(train_embeds, train_targets, benchmark.regularization)
    probe = fit_probe(train_embeds, train_targets, regularization=chosen)
    labels = embedded_labels(query, tested_on)
    predicted = classes[probe.predict(tested_on.image_embeds.to(device)).cpu().numpy()]
    correct = (predicted == np.asarray(labels)).astype(np.float64)
    unknown = sum(label not in set(classes.tolist()) for label in labels)
    if unknown:
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
        accuracy = (start.predict(image_embeds[is_held_out]) == targets[is_held_out]).double().mean().item()
        if accuracy > best_accuracy:
            best, best_accuracy = value, accuracy
    if best in (min(regularization), max(regularization)):
        logger.warning("the best C, %g, is at the end of the sweep; widen --regularization", best)
    return best


def hold_out(targets: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
    """Marks a random fifth of each class, at least one image of a class that has two, bool of shape (rows,)."""
    generator = np.random.default_rng(seed)
    is_held_out = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
    for target in targets.unique():
        rows = torch.where(targets == target)[0].cpu().numpy()
        count = min(max(1, round(HELD_OUT * len(rows))), len(rows) - 1)
        is_held_out[generator.permutation(rows)[:count]] = True
    return is_held_out


def fit_probe(
    image_embeds: torch.Tensor,
    targets: torch.Tensor,
    *,
    regularization: float,
    start: Probe | None = None,
    num_classes: int | None = None,
) -> Probe:
    """Minimises C * sum of cross entropies + |weight|^2 / 2, as scikit-learn's LogisticRegression does.

    Args:
        image_embeds: Shape (rows, D), on the device that fits.
        targets: int64 of shape (rows,).
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
            loss = F.cross_entropy(F.linear(embeds, weight, bias), wanted, reduction="sum") / num_rows
            loss.backward()
            total = total + loss.detach()
        return total.detach()

    optimizer.step(objective)
    if optimizer.state[weight]["n_iter"] >= MAX_ITERATIONS:
        logger.warning("the linear probe at C=%g stopped after %d iterations", regularization, MAX_ITERATIONS)
    return Probe(weight.detach(), bias.detach())
