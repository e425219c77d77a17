"""MofiTrainer from Python: a checkpoint's name and a dataset of any kind are all that it needs."""

import io
import json
import tarfile

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from tiny import NAMES, picture, tiny_rows, write_i2e
from tiny_towers import write_siglip
from train_runs import saved_tensors

from modeling_mofi.data.dataset_rows import EndlessRows
from modeling_mofi.training.arguments import MofiTrainingArguments
from modeling_mofi.training.trainer import MofiTrainer
from modeling_mofi.training.training_data import load_rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    write_i2e(folder / "i2e")
    shard = folder / "i2e" / "data" / "train-00000-of-00002.parquet"
    pq.write_table(pq.read_table(shard).slice(0, 8), folder / "i2e" / "data" / "validation-00000-of-00001.parquet")
    card = (folder / "i2e" / "README.md").read_text()
    split = "data_files: [{split: validation, path: data/validation-*.parquet}, "
    (folder / "i2e" / "README.md").write_text(card.replace("data_files: [", split))
    write_siglip(folder / "siglip")
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for row in range(12):
            for suffix, content in (("png", picture(seed=row)), ("txt", f"a {NAMES[row % 4]} flag".encode())):
                member = tarfile.TarInfo(f"{row:03d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


def make_args(folder, **settings):
    settings = {"max_steps": 2, "logging_steps": 1, "save_steps": 1, "per_device_train_batch_size": 4, **settings}
    fixed = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    return MofiTrainingArguments(output_dir=str(folder), **fixed, **settings)


def train_on(root, folder, dataset, *, resume=None, **settings):
    given = {name: settings.pop(name) for name in ("entities", "eval_dataset") if name in settings}
    trainer = MofiTrainer(str(root / "siglip"), args=make_args(folder, **settings), train_dataset=dataset, **given)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return trainer


def test_a_name_and_a_folder_train_and_evaluate_on_the_builds_own_split(root, tmp_path):
    folder = str(root / "i2e")
    trainer = train_on(root, tmp_path, folder, eval_dataset=folder, eval_strategy="steps", eval_steps=2)
    (found,) = (entry for entry in trainer.state.log_history if "eval_retrieval_map" in entry)
    names = ("retrieval_map", "image_to_text_recall", "text_to_image_recall", "naming_accuracy")
    assert all(0 <= found[f"eval_{name}"] <= 1 for name in names)
    assert (found["eval_num_images"], found["eval_num_unreadable"], found["eval_num_unlabeled"]) == (8, 0, 0)
    assert "entity_loss" in trainer.state.log_history[0]
    assert (tmp_path / "entities.parquet").is_file()


def test_a_dataset_of_datasets_has_the_rows_of_its_files_and_trains(root, tmp_path):
    dataset = datasets.load_dataset(str(root / "i2e"), split="train", cache_dir=str(tmp_path / "cache"))
    trainer = train_on(root, tmp_path / "run", dataset, entities=root / "i2e" / "entities.parquet")
    rows = load_rows(str(root / "i2e"), trainer.args)
    assert list(trainer.train_dataset.rows) == list(rows)
    assert "entity_loss" in trainer.state.log_history[0]
    assert trainer.pretraining_model.entity_head.num_entities == 4


def test_a_stream_of_tars_trains_and_resumes_to_the_bit(root, tmp_path):
    def stream():
        tars = {"train": str(root / "pairs.tar")}
        found = datasets.load_dataset("webdataset", data_files=tars, split="train", streaming=True)
        return found.rename_columns({"png": "image", "txt": "alt_text"})

    settings = {"recipe": "contrastive", "max_steps": 5}
    train_on(root, tmp_path / "whole", stream(), **settings)
    train_on(root, tmp_path / "again", stream(), **settings, resume=str(tmp_path / "whole" / "checkpoint-2"))
    whole, again = saved_tensors(tmp_path / "whole"), saved_tensors(tmp_path / "again")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    with pytest.raises(ValueError, match="A streamed dataset has no length: set max_steps"):
        train_on(root, tmp_path / "endless", stream(), **{**settings, "max_steps": -1})


def test_shares_of_a_stream_are_apart_and_go_on_over_and_over(monkeypatch):
    rows = tiny_rows(8)
    dataset = datasets.Dataset.from_dict({name: values.to_pylist() for name, values in rows.items()})
    stream = dataset.to_iterable_dataset(num_shards=2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr("modeling_mofi.data.dataset_rows.process_place", lambda rank=rank: (rank, 2))
        share = iter(EndlessRows(stream, {"image": "image", "image_id": "image_id"}, min_side=16))
        seen.append([next(share) for _ in range(8)])
    ids = [[row["image_id"] for row in share] for share in seen]
    assert sorted(ids[0][:4] + ids[1][:4]) == rows["image_id"].to_pylist()
    assert all(share[:4] == share[4:] for share in ids)
    assert sorted(row["position"] for share in seen for row in share) == list(range(16))


def test_a_head_of_other_entities_is_refused(root, tmp_path):
    first = train_on(root, tmp_path / "run", str(root / "i2e"))
    entities = pq.read_table(root / "i2e" / "entities.parquet")
    pq.write_table(entities.slice(0, 3), tmp_path / "three.parquet")
    columns = ["image", "alt_text", "entity_labels"]
    dataset = datasets.Dataset(pq.read_table(root / "i2e" / "data" / "train-00000-of-00002.parquet", columns=columns))
    settings = {"args": make_args(tmp_path / "other"), "train_dataset": dataset}
    with pytest.raises(ValueError, match="needs its processor"):
        MofiTrainer(first.pretraining_model, **settings, entities=tmp_path / "three.parquet")
    settings |= {"processing_class": first.processing_class}
    with pytest.raises(ValueError, match="has a head of 4 entities, the dataset has 3"):
        MofiTrainer(first.pretraining_model, **settings, entities=tmp_path / "three.parquet")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_entities"] == 4
