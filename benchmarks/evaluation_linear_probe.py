"""The linear probe beside scikit-learn's LogisticRegression: accuracy and time at the same regularization.

python -m benchmarks.evaluation_linear_probe --output benchmarks/results/evaluation_linear_probe.json
"""

import argparse
import json
import time
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression

from benchmarks.evaluation_record import write_record
from evaluation.linear_probe import fit_probe


LIMIT = 0.002


def main() -> None:
    """Fits both for each C on overlapping clusters, and fails where the accuracies differ by more than 0.2 points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--training_images", type=int, default=5000)
    parser.add_argument("--test_images", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--regularization", type=float, nargs="+", default=[0.1, 1.0, 10.0, 100.0, 1000.0])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, train_targets = clusters(args, args.training_images, seed=1)
    test, test_targets = clusters(args, args.test_images, seed=2)
    rows = []
    for value in args.regularization:
        started = time.perf_counter()
        probe = fit_probe(train, train_targets[:, None], regularization=value)
        ours_seconds = time.perf_counter() - started
        started = time.perf_counter()
        reference = LogisticRegression(C=value, max_iter=5000, tol=1e-6).fit(train.numpy(), train_targets.numpy())
        reference_seconds = time.perf_counter() - started
        row = {
            "C": value,
            "accuracy": (probe.predict(test) == test_targets).double().mean().item(),
            "accuracy_of_scikit_learn": float(reference.score(test.numpy(), test_targets.numpy())),
            "seconds": round(ours_seconds, 2),
            "seconds_of_scikit_learn": round(reference_seconds, 2),
        }
        print(json.dumps(row))
        rows.append(row)
    if args.output:
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        write_record(args.output, {"settings": settings, "measurements": rows})
    if any(abs(row["accuracy"] - row["accuracy_of_scikit_learn"]) > LIMIT for row in rows):
        raise SystemExit("An accuracy differs from scikit-learn's by more than 0.2 points.")


def clusters(args: argparse.Namespace, count: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-length rows around the centers of their classes, far enough spread to overlap."""
    centers = torch.randn(args.classes, args.dim, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, args.classes, (count,), generator=generator)
    noise = 4.0 * torch.randn(count, args.dim, generator=generator)
    return torch.nn.functional.normalize(centers[targets] + noise), targets


if __name__ == "__main__":
    main()
