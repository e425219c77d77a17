import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evaluation.benchmark import Benchmark, Embedder, read_benchmarks
from evaluation.encoders import UnfitModelError
from evaluation.entity_recognition import evaluate_entity_recognition, read_entities, recognize, scores_by_band
from evaluation.labeled_images import open_images
from modeling_mofi.sharded_rows import save_rows
from tests.evaluation.conftest import COLORS, picture
from tests.evaluation.test_zero_shot import ColorEncoder


def write_entities(folder, *, ids=("Q-red", "Q-green"), counts=(5, 50), labels=(0, 1)):
    names = [entity_id[2:] for entity_id in ids]
    columns = {"entity_label": labels, "entity_id": ids, "name": names, "description": [""] * len(ids)}
    pq.write_table(pa.table({**columns, "count": counts}), folder / "entities.parquet")


@pytest.fixture
def checkpoint(tmp_path):
    """An encoder of colors whose folder holds two entities and a head for them."""
    folder = tmp_path / "checkpoint"
    save_rows(folder, {"weight": torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])}, name="entity_head", num_rows=2)
    write_entities(folder)
    return Embedder(ColorEncoder(torch.device("cpu"), name=str(folder)), tmp_path / "embeddings")


@pytest.fixture
def images(write_rows, colors_file):
    """Pictures whose column `entity_id` names what they show."""
    rows = pq.read_table(colors_file).to_pydict()
    files = [image["bytes"] for image in rows["image"]]
    data = write_rows("entities.parquet", image=files, entity_id=[f"Q-{color}" for color in rows["color"]])
    return open_images(data, label_column="entity_id")


def test_head_text_and_both_name_the_seen_entities(checkpoint, images):
    scores = evaluate_entity_recognition(Benchmark(), checkpoint, query=images).by_query
    for way in ("head", "text", "both"):
        np.testing.assert_array_equal(scores[f"{way} top-1"], [1.0] * 8 + [np.nan] * 4)
    np.testing.assert_array_equal(scores["head top-1, 1-9 images"], [1.0] * 4 + [np.nan] * 8)
    assert np.nansum(scores["head top-1, 10-99 images"]) == 4


def test_the_text_tower_names_unseen_entities_of_the_knowledge_base(checkpoint, images, tmp_path):
    lines = [{"entity_id": "Q-blue", "name": "blue", "description": "a color"}]
    (tmp_path / "kb.jsonl").write_text("\n".join(map(json.dumps, lines)))
    benchmark = Benchmark(knowledge_base=str(tmp_path / "kb.jsonl"))
    scores = evaluate_entity_recognition(benchmark, checkpoint, query=images)
    np.testing.assert_array_equal(scores.by_query["text top-1, unseen"], [np.nan] * 8 + [1.0] * 4)
    assert scores.counts == {"entities": 2, "unseen_entities": 1}


def test_images_of_no_candidate_are_nil_and_shall_get_no_name(checkpoint, images, tmp_path):
    (tmp_path / "ids.txt").write_text("Q-red\nQ-green\n")
    lines = [{"entity_id": f"Q-{name}", "name": name, "description": "a color"} for name in ("red", "green", "blue")]
    (tmp_path / "kb.jsonl").write_text("\n".join(map(json.dumps, lines)))
    images.labels[-1] = ()  # Nothing known of it.
    entities = {"entities": str(tmp_path / "ids.txt"), "knowledge_base": str(tmp_path / "kb.jsonl")}
    scores = evaluate_entity_recognition(Benchmark(nil=True, **entities), checkpoint, query=images)
    np.testing.assert_array_equal(scores.by_query["text top-1"], [1.0] * 8 + [np.nan] * 4)
    for name in ("AUROC", "DIR at 1% FPIR", "DIR at 10% FPIR"):
        assert np.nanmean(scores.by_query[f"text {name}"]) == 1.0
    assert scores.counts == {"entities": 2, "nil_images": 4} and scores.curves["both"][0] == (0.0, 1.0)
    with pytest.raises(ValueError, match="4 of 4 images are NIL"):
        evaluate_entity_recognition(Benchmark(nil=True, **entities), checkpoint, query=images.only([8, 9, 10, 11]))
    with pytest.raises(ValueError, match="ids.txt lists ids only; give --knowledge_base"):
        evaluate_entity_recognition(Benchmark(entities=entities["entities"]), checkpoint, query=images)


def test_of_several_entities_any_is_right_and_the_most_common_gives_the_band(checkpoint, images):
    images.labels = [("Q-red", "Q-green") if label == "Q-red" else (label,) for label in images.labels]
    scores = evaluate_entity_recognition(Benchmark(), checkpoint, query=images).by_query
    np.testing.assert_array_equal(scores["head top-1"], [1.0] * 8 + [np.nan] * 4)
    np.testing.assert_array_equal(scores["head top-1, 10-99 images"], [1.0] * 8 + [np.nan] * 4)
    assert "head top-1, 1-9 images" not in scores


def test_both_ranks_by_the_mean_of_the_cosines():
    images = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    head, text = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1)), dim=2)
    ids, labels = list("abcdef"), list("abcdefabc")
    mean = (images @ head.T + images @ text.T) / 2
    expected = [(row > row[ids.index(label)]).sum().item() + 1 for row, label in zip(mean, labels, strict=True)]
    assert recognize(images, labels, ids, head, text)["both"].tolist() == expected


def test_a_model_without_a_head_names_by_text(checkpoint, images, caplog):
    (next(iter(checkpoint.cache_dir.parent.glob("checkpoint/entity_head.safetensors")))).unlink()
    scores = evaluate_entity_recognition(Benchmark(), checkpoint, query=images)
    assert {name.split()[0] for name in scores.by_query} == {"text"}
    assert "has no entity head" in caplog.text


def test_a_missing_entity_table_says_what_to_give(checkpoint, images, tmp_path):
    (tmp_path / "checkpoint" / "entities.parquet").unlink()
    with pytest.raises(UnfitModelError, match="entities.parquet does not exist; give --entities"):
        evaluate_entity_recognition(Benchmark(), checkpoint, query=images)


def test_a_head_of_another_build_is_refused(checkpoint, images, tmp_path):
    write_entities(tmp_path / "checkpoint", ids=("Q-red", "Q-green", "Q-blue"), counts=(1, 1, 1), labels=(0, 1, 2))
    with pytest.raises(ValueError, match="has 2 rows, but entities.parquet 3"):
        evaluate_entity_recognition(Benchmark(), checkpoint, query=images)


def test_a_table_out_of_order_is_refused(tmp_path):
    write_entities(tmp_path, labels=(1, 0))
    with pytest.raises(ValueError, match="row i must hold entity_label i"):
        read_entities(str(tmp_path / "entities.parquet"))


def test_the_sample_knowledge_base_reads_without_unpacking():
    entities = read_entities("sample_data/entities.jsonl.gz")
    assert len(entities.entity_ids) == len(entities.texts) == 27903


def test_an_entity_without_images_is_in_no_band(tmp_path):
    write_entities(tmp_path, counts=(0, 1000))
    seen = read_entities(str(tmp_path / "entities.parquet"))
    scores = scores_by_band({"head": np.array([1.0, 1.0])}, [("Q-red",), ("Q-green",)], seen)
    assert list(scores) == ["head top-1", "head top-5", "head top-1, 1000+ images"]


@pytest.fixture
def colors_knowledge_base(tmp_path):
    """Four entities in another order than the checkpoint's, two of them unknown to it."""
    names = ("blue", "green", "red", "gray")
    lines = [{"entity_id": f"Q-{name}", "name": name, "description": "a color"} for name in names]
    (tmp_path / "kb.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(tmp_path / "kb.jsonl")


def test_any_table_of_entities_gives_the_candidates(checkpoint, images, colors_knowledge_base, caplog):
    scores = evaluate_entity_recognition(Benchmark(entities=colors_knowledge_base), checkpoint, query=images)
    np.testing.assert_array_equal(scores.by_query["text top-1"], [1.0] * 12)
    assert scores.counts == {"entities": 4, "unseen_entities": 0}
    assert "is left out: it lacks 2 of 4 entities" in caplog.text
    assert not any(name.startswith(("head", "both")) for name in scores.by_query)


def test_candidates_can_be_only_the_entities_of_the_data(checkpoint, images, colors_knowledge_base):
    benchmark = Benchmark(entities=colors_knowledge_base, candidates="labeled")
    assert evaluate_entity_recognition(benchmark, checkpoint, query=images).counts["entities"] == 3


def test_the_head_names_candidates_in_any_order(checkpoint, images, tmp_path):
    lines = [{"entity_id": f"Q-{name}", "name": name, "description": ""} for name in ("green", "red")]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, lines)))
    scores = evaluate_entity_recognition(Benchmark(entities=str(tmp_path / "two.jsonl")), checkpoint, query=images)
    np.testing.assert_array_equal(scores.by_query["head top-1"], [1.0] * 8 + [np.nan] * 4)


@pytest.mark.parametrize(("entity_text", "text"), [("name", "blue"), ("name_and_description", "blue, a color")])
def test_entities_are_read_by_name_or_with_their_description(colors_knowledge_base, entity_text, text):
    assert read_entities(colors_knowledge_base, entity_text=entity_text).texts[0] == text


@pytest.mark.parametrize("setting", [{"candidates": "some"}, {"entity_text": "alias"}, {"task": "retrievl"}])
def test_unknown_settings_are_refused(setting):
    name, value = next(iter(setting.items()))
    with pytest.raises(ValueError, match=f"Benchmark 'sample': {name} is '{value}'; it must be one of"):
        read_benchmarks({"sample": setting}, Benchmark())


def test_a_table_without_the_entities_of_the_data_is_refused(checkpoint, images, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"entity_id": "Q1", "name": "one", "description": ""}')
    benchmark = Benchmark(entities=str(tmp_path / "other.jsonl"), candidates="labeled")
    with pytest.raises(ValueError, match="has none of the 3 entities of the data"):
        evaluate_entity_recognition(benchmark, checkpoint, query=images)


def test_labels_that_are_no_entity_ids_are_refused(checkpoint, write_rows):
    data = write_rows(image=[picture(COLORS["red"])], color=["red"])
    with pytest.raises(
        ValueError, match="No label of .* is an entity_id of the candidates: 'red', ... against 'Q-red'"
    ):
        evaluate_entity_recognition(Benchmark(), checkpoint, query=open_images(data, label_column="color"))
