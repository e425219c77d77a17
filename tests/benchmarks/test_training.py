"""The benchmarks of training run, in sizes that say nothing of speed."""

import json

from benchmarks import gpu
from benchmarks.training_reading import ReadingArguments, measure


def test_what_is_measured_on_a_gpu_runs_on_a_cpu(tmp_path):
    gpu.main(["--small", "true", f"--output={tmp_path}/gpu.json"])
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert set(record["aims"]) - set(record) == {"full_softmax_over_products"}  # Measured by precision.
    for precision in ("fp32", "tf32", "bf16"):
        assert record[f"full_softmax_over_products_{precision}"]["ratio"] > 0
    assert record["multi_task_over_contrastive"]["multi_task_over_contrastive"] > 0


def test_many_readers_decompress_each_row_about_once():
    sizes = {"num_rows": 8_000, "rows_per_group": 100, "image_bytes": 20, "num_processes": 2, "num_workers": 4}
    found = measure(ReadingArguments(**sizes))
    assert found["together"]["decompressed_per_row_used"] <= 1.1
    assert found["each_by_itself"]["decompressed_per_row_used"] > 4
