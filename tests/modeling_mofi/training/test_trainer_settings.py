"""Settings of a run: frozen parts, cheaper steps, cached gradients, evaluation, sharded and compiled towers."""

import json
import math
import os
import shutil
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import train_runs
from processes import run_processes
from safetensors.torch import load_file, save_file
from tiny import write_entities, write_training_data

from modeling_mofi import MofiForPreTraining
from modeling_mofi.training.model_preparation import choose_sharding
from modeling_mofi.training.trainer import MofiTrainer


CAN_COMPILE = shutil.which("g++") is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_training_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def start(data, tmp_path):
    """Runs two steps of the tiny recipe with changes in new processes; returns the folder and the losses by step."""

    def start(name="run", processes=1, **changes):
        folder = tmp_path / name
        defaults = {"dataset": str(data / "i2e"), "tokenizer_name": str(data / "processor"), "max_steps": 2}
        folder.mkdir(exist_ok=True)
        recipe = train_runs.write_recipe(folder, **{**defaults, "save_steps": 1, **changes})
        results = run_processes(run, processes, [recipe, f"--output_dir={folder}"], str(folder / "inductor"))
        return folder, results[0]["losses"]

    return start


def run(arguments, inductor_folder=""):
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = inductor_folder  # A new one, so that inductor really compiles.
    return train_runs.run(arguments)


def changed_parts(folder):
    """Which parts differ between the checkpoints after the first and the second step."""
    first, second = (train_runs.saved_tensors(folder / f"checkpoint-{step}") for step in (1, 2))
    parts = {"vision_model": "image_tower", "text_model": "text_tower", "weight": "entity_head"}
    parts |= {"visual_projection": "image_tower", "text_projection": "text_tower"}
    changed = set()
    for file, name in first:
        part = parts.get(name.split(".")[0]) if file in ("model.safetensors", "entity_head.safetensors") else None
        if part is not None and not torch.equal(first[file, name], second[file, name]):
            changed.add(part)
    return changed


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        (["image_tower", "text_tower"], {"entity_head"}),
        (["entity_head", "text_tower"], {"image_tower"}),
        (["entity_head", "image_tower"], {"text_tower"}),
        ([], {"image_tower", "text_tower", "entity_head"}),
    ],
)
def test_frozen_parts_stay(start, frozen, trained):
    folder, _ = start(frozen_parts=frozen, lr_scheduler_type="constant")
    assert changed_parts(folder) == trained


def test_a_fine_tuned_tower_moves_less_the_deeper_and_the_head_by_its_own_rate(start):
    rates = {"learning_rate": 1e-4, "layer_decay": 0.1, "entity_learning_rate": 1e-2, "weight_decay": 0.0}
    folder, _ = start(**rates, lr_scheduler_type="constant", adam_epsilon=1e-30, num_sampled_entities=None)
    first, second = (train_runs.saved_tensors(folder / f"checkpoint-{step}") for step in (1, 2))
    moved = {name: (second[name] - first[name]).abs().max().item() for name in first}
    # Adam moves each weight by at most about its rate.
    assert moved["model.safetensors", "visual_projection.weight"] == pytest.approx(1e-4, rel=0.3)
    assert moved["model.safetensors", "vision_model.encoder.layers.0.mlp.fc1.weight"] == pytest.approx(1e-5, rel=0.3)
    assert moved["model.safetensors", "vision_model.embeddings.patch_embedding.weight"] == pytest.approx(1e-6, rel=0.3)
    assert moved["entity_head.safetensors", "weight"] == pytest.approx(1e-2, rel=0.3)


def test_the_fine_tuning_recipe_goes_on_from_a_checkpoint_with_new_entities(start, data, tmp_path):
    first, _ = start("first")
    write_entities(tmp_path / "entities.parquet", entity_ids=("Q0", "Q1", "Q2", "Q3", "Q9"))
    flags = [f"--init_from={first}", f"--dataset={data / 'i2e'}", f"--entities={tmp_path / 'entities.parquet'}"]
    flags += [f"--output_dir={tmp_path / 'tuned'}", "--per_device_train_batch_size=4", "--max_steps=2", "--use_cpu"]
    run_processes(run, 1, ["configs/finetune.yaml", *flags, "--save_strategy=no", "--report_to=none"])
    before, after = (train_runs.saved_tensors(folder) for folder in (first, tmp_path / "tuned"))
    rows, known = after["entity_head.safetensors", "weight"], before["entity_head.safetensors", "weight"]
    assert len(rows) == 5
    assert 0 < (rows[:4] - known).abs().max() < 5e-3  # Two steps of at most about 1e-3.
    tower = ("model.safetensors", "vision_model.encoder.layers.0.mlp.fc1.weight")
    assert 0 < (after[tower] - before[tower]).abs().max() < 5e-5


def test_a_logit_scale_beyond_the_limit_comes_back_to_it(start):
    first, _ = start("first")
    tensors = load_file(first / "model.safetensors")
    tensors["logit_scale"] = torch.tensor(10.0)
    save_file(tensors, first / "model.safetensors", metadata={"format": "pt"})
    settings = {"init_from": str(first), "vision_config": {}, "text_config": {}, "learning_rate": 1e-30}
    folder, _ = start("second", max_steps=1, **settings)
    assert load_file(folder / "model.safetensors")["logit_scale"].item() == pytest.approx(math.log(100))


def test_bf16_trains_weights_and_moments_in_fp32(start):
    still = {"learning_rate": 1e-30, "max_steps": 3}
    _, exact = start("exact", **still)
    _, losses = start("still", **still, bf16=True)
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.03)
    folder, _ = start("bf16", bf16=True)
    tensors = train_runs.saved_tensors(folder / "checkpoint-2")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    floats = {
        tensor.dtype for (file, _), tensor in tensors.items() if "rng" not in file and tensor.is_floating_point()
    }
    assert floats == {torch.float32}
    assert changed_parts(folder) == {"image_tower", "text_tower", "entity_head"}


def test_the_head_alone_trains_on_two_processes(start):
    folder, losses = start(
        processes=2, frozen_parts=["image_tower"], recipe="supervised", per_device_train_batch_size=2
    )
    _, expected = start("one", frozen_parts=["image_tower"], recipe="supervised")
    assert losses == pytest.approx(expected, rel=1e-5)


def test_cached_gradients_train_as_whole_batches_do(start):
    _, expected = start("whole", per_device_train_batch_size=8, max_steps=3)
    _, cached = start("cached", per_device_train_batch_size=8, max_steps=3, gradient_cache_size=3)
    _, two = start("two", processes=2, per_device_train_batch_size=4, max_steps=3, gradient_cache_size=3)
    assert cached == pytest.approx(expected, rel=1e-5)
    assert two == pytest.approx(expected, rel=1e-5)


def test_schedules_make_early_steps_cheaper(start):
    schedules = {"image_size_schedule": {0: 8, 0.5: 16}, "patch_dropout_schedule": {0: 0, 0.75: 0.5}}
    still = {"max_steps": 4, "learning_rate": 1e-30}  # Losses differ by what the towers see alone.
    _, plain = start("plain", **still)
    _, cheap = start("cheap", **still, **schedules)
    # Steps 1 and 2 see small images, step 3 the whole ones, step 4 half of their patches.
    assert [cheap[step] == pytest.approx(plain[step], rel=1e-6) for step in (1, 2, 3, 4)] == [
        False,
        False,
        True,
        False,
    ]


def test_images_count_by_similarity_alike_on_any_number_of_processes(start, data, tmp_path):
    for path in (data / "i2e" / "data").glob("*.parquet"):
        table = pq.read_table(path)
        entities = table["entities"].to_pylist()
        for place, (entity,) in enumerate(entities):
            entity["similarity"] = 0.1 + 0.05 * (place % 7)
        table = table.drop_columns("entities").append_column("entities", pa.array(entities, table["entities"].type))
        pq.write_table(table, tmp_path / path.name)
    settings = {"entities": str(data / "i2e" / "entities.parquet"), "max_steps": 3, "per_device_train_batch_size": 8}
    settings |= {"dataset": str(tmp_path / "*.parquet"), "entity_weighting": "similarity"}
    _, plain = start("plain", **{**settings, "entity_weighting": "none"})
    _, weighted = start("weighted", **settings)
    _, cached = start("cached", **settings, gradient_cache_size=3)
    _, two = start("two", processes=2, **{**settings, "per_device_train_batch_size": 4})
    assert weighted != pytest.approx(plain, rel=1e-3)
    assert cached == pytest.approx(weighted, rel=1e-5)
    assert two == pytest.approx(weighted, rel=1e-5)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_best_checkpoint_is_kept_by_retrieval(start, data, ema_decay):
    folder, _ = start(
        max_steps=6,
        save_total_limit=1,
        eval_dataset=str(data / "labeled.parquet"),
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="retrieval_map",
        load_best_model_at_end=True,
        ema_decay=ema_decay,
    )
    state = json.loads((folder / "trainer_state.json").read_text())
    scores = {
        entry["step"]: entry["eval_retrieval_map"] for entry in state["log_history"] if "eval_retrieval_map" in entry
    }
    assert sorted(scores) == [1, 2, 3, 4, 5, 6]
    assert state["best_metric"] == max(scores.values())
    best = folder / f"checkpoint-{state['best_global_step']}"
    final, kept = train_runs.saved_tensors(folder), train_runs.saved_tensors(best)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in final.items())


def test_towers_sharded_over_two_processes_train_and_resume_as_one(start):
    constant = {"lr_scheduler_type": "constant", "save_steps": 2}
    _, expected = start("one", max_steps=4, **constant)
    sharded = {"processes": 2, "per_device_train_batch_size": 2, "fsdp": "full_shard", "fsdp_config": {"version": 2}}
    start("two", max_steps=2, **constant, **sharded)
    folder, losses = start("two", max_steps=4, **constant, **sharded)
    assert losses == pytest.approx(expected, rel=1e-5)
    _, on_one = start("two", max_steps=6, **constant, output_dir=str(folder))  # The checkpoint is any other's equal.
    assert on_one[4] == losses[4]
    assert len(on_one) == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "supervised"},
        {"gradient_cache_size": 1, "frozen_parts": ["text_tower"]},
        {"gradient_accumulation_steps": 2, "ema_decay": 0.9, "max_grad_norm": 0.01},
        {"patch_dropout_schedule": {0: 0.5}, "gradient_checkpointing": True, "torch_compile_backend": "eager"},
    ],
    ids=["supervised", "cached gradients", "accumulated and averaged", "compiled and checkpointed"],
)
def test_sharded_towers_train_as_whole_ones_do(start, changes):
    changes = {"max_steps": 3, "save_strategy": "no", **changes}
    _, expected = start("whole", **changes)
    _, losses = start("sharded", processes=2, **changes, per_device_train_batch_size=2, fsdp="full_shard")
    assert losses[1] == pytest.approx(expected[1], rel=1e-5)
    # Adam's first steps go as far for a gradient near zero as for any other, and so enlarge what rounding does to it.
    assert losses == pytest.approx(expected, rel=1e-4)


def test_what_is_not_sharded_comes_to_the_device_too(tiny_config):
    tiny_config.contrast = "sigmoid"
    model, plugin = MofiForPreTraining(tiny_config), sharding_plugin()
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    trainer = SimpleNamespace(accelerator=accelerator, args=SimpleNamespace(device="meta"))
    MofiTrainer._exempt_from_sharding(trainer, model)
    exempt = [parameter for module in plugin.ignored_modules for parameter in module.parameters()]
    scalars = [model.mofi.logit_scale, model.mofi.logit_bias]
    assert list(map(id, exempt)) == list(map(id, [*scalars, model.entity_head.weight]))
    assert all(parameter.is_meta for parameter in exempt)
    assert plugin.transformer_cls_names_to_wrap == ["CLIPEncoderLayer"]


def test_sharding_that_would_lose_rows_or_states_is_refused():
    with pytest.raises(ValueError, match="fsdp_config has version 1; it must be 2"):
        choose_sharding(sharding_plugin(fsdp_version=1), None)
    with pytest.raises(ValueError, match="cpu_ram_efficient_loading.* Set it to false"):
        choose_sharding(sharding_plugin(cpu_ram_efficient_loading=True), None)


def sharding_plugin(**changes):
    defaults = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "transformer_cls_names_to_wrap": None}
    return SimpleNamespace(**{**defaults, **changes})


def test_compiled_towers_train_as_plain_ones_do(start):
    _, expected = start("plain")
    _, losses = start("compiled", torch_compile_backend="aot_eager")  # The same path, without a C++ compiler.
    assert losses == pytest.approx(expected, rel=1e-4)


def test_compiled_towers_train_on_two_processes(start):
    _, expected = start("plain")
    changes = {"per_device_train_batch_size": 2, "gradient_checkpointing": True, "torch_compile_backend": "eager"}
    _, losses = start("compiled", processes=2, **changes)
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size_schedule": {0: 8, 0.5: 16}, "patch_dropout_schedule": {0: 0, 0.25: 0.5, 0.75: 0}},
        {"gradient_cache_size": 3},
        {"gradient_checkpointing": True},
        {"per_device_train_batch_size": 10, "num_train_epochs": 2, "max_steps": -1, "dataloader_drop_last": False},
    ],
    ids=["schedules", "cached gradients", "checkpointed", "uneven batches"],
)
def test_compiled_towers_take_inputs_of_any_size(start, changes):
    changes = {"max_steps": 4, "save_strategy": "no", **changes}
    _, expected = start("plain", **changes)
    _, losses = start("compiled", **changes, torch_compile_backend="eager")
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(not CAN_COMPILE, reason="inductor needs g++ and Python's headers")
def test_towers_compiled_by_inductor_train_as_plain_ones_do(start):
    few_kernels = {"attn_implementation": "sdpa", "save_strategy": "no"}
    _, expected = start("plain", **few_kernels)
    folder, losses = start("compiled", **few_kernels, torch_compile=True)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert list(folder.glob("inductor/**/*.so"))
