import numpy as np
import pytest
import torch

from evaluation.benchmark import Benchmark
from evaluation.gpr1200 import DOMAINS, categories_of_files, evaluate_gpr1200, gpr1200
from evaluation.labeled_images import open_images
from tests.evaluation.conftest import COLORS, picture


CATEGORIES = (np.arange(12000) // 10).tolist()


def test_random_embeddings_give_0_102():
    embeds = torch.nn.functional.normalize(torch.randn(12000, 8, generator=torch.Generator().manual_seed(0)))
    scores = gpr1200(embeds, CATEGORIES)
    assert np.mean(scores["mAP"]) == pytest.approx(0.102, abs=0.002)
    assert [np.count_nonzero(~np.isnan(scores[domain])) for domain in DOMAINS] == [2000] * 6


def test_perfect_embeddings_give_1_in_every_domain():
    categories = CATEGORIES[::40]
    codes = torch.tensor([[(category >> bit & 1) * 2 - 1 for bit in range(11)] for category in categories]).float()
    scores = gpr1200(torch.nn.functional.normalize(codes), categories)
    assert [np.nanmean(scores[name]) for name in ("mAP", *DOMAINS)] == [1.0] * 7


def test_domains_come_from_the_category_and_not_from_the_position():
    embeds = torch.nn.functional.normalize(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)))
    categories = np.repeat([0, 199, 200, 450, 999, 1199], 10)
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    before, after = gpr1200(embeds, categories.tolist()), gpr1200(embeds[shuffled], categories[shuffled].tolist())
    assert {name: np.nanmean(before[name]) for name in ("Landmarks", "iNat", "SOP")} == pytest.approx(
        {name: np.nanmean(after[name]) for name in ("Landmarks", "iNat", "SOP")}
    )
    assert np.where(~np.isnan(before["faces"]))[0].tolist() == list(range(50, 60))


def test_the_category_is_the_number_before_the_first_underscore():
    assert categories_of_files(["0_a.jpg", "812_n_0_b.jpg"]) == [0, 812]


@pytest.mark.parametrize("name", ["a.jpg", "x_1.jpg", "12.jpg"])
def test_another_file_name_is_refused(name):
    with pytest.raises(ValueError, match="is not a file name of GPR1200"):
        categories_of_files(["0_a.jpg", name])


def test_a_category_outside_the_domains_is_refused():
    with pytest.raises(ValueError, match="Category 1200 is outside 0 to 1199"):
        gpr1200(torch.eye(2), [0, 1200])


def test_a_flat_folder_is_evaluated_by_its_file_names(tmp_path, pixels, caplog):
    (tmp_path / "images").mkdir()
    for name, color in {"3_a": "red", "3_b": "red", "1007_a": "blue", "1007_b": "blue"}.items():
        (tmp_path / "images" / f"{name}.png").write_bytes(picture(COLORS[color], seed=len(name)))
    images = open_images(str(tmp_path / "images"))
    scores = evaluate_gpr1200(Benchmark(task="gpr1200"), pixels, query=images)
    assert np.nanmean(scores.by_query["Landmarks"]) == np.nanmean(scores.by_query["faces"]) == 1.0
    assert "this dataset 4: the value is not comparable" in caplog.text
