"""Rows over the network: those of the files' copies, fetched once, kept within bounds, in runs of any shape."""

import signal
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow.parquet as pq
import pytest
import train_runs
from hub_server import Handler, running_hub
from processes import run_processes
from tiny import make_tiny_processor, write_i2e

from modeling_mofi.data import streamed_rows
from modeling_mofi.data.collator import PositionDataset
from modeling_mofi.data.parquet_rows import ParquetRows, find_parquet_files
from modeling_mofi.data.streamed_rows import StreamedRows, open_rows


REPO = "datasets/me/i2e"
COLUMNS = {"image_id": "id", "image": "image", "entity_labels": "labels"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_i2e(tmp_path_factory.mktemp("data") / "i2e")


@pytest.fixture(scope="module")
def hub(folder):
    """A server that has the dataset as a repository, and its files at plain addresses too."""
    with running_hub() as hub:
        hub.files[REPO] = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
        yield hub


@pytest.fixture
def urls(hub):
    hub.ranges.clear()
    return [f"{hub.url}/{REPO}/resolve/main/data/train-0000{shard}-of-00002.parquet" for shard in (0, 1)]


@pytest.fixture
def local(folder):
    return ParquetRows(find_parquet_files(str(folder), split="train"), COLUMNS)


def test_rows_are_those_of_the_files(urls, local, tmp_path):
    rows = open_rows(urls, COLUMNS, num_cached_rows=12, folder=tmp_path)
    assert isinstance(rows, StreamedRows)
    assert rows.group_sizes == local.group_sizes
    assert [rows[index] for index in (23, 0, 12, 11, 0)] == [local[index] for index in (23, 0, 12, 11, 0)]
    assert list(rows.with_columns({"alt_text": "text"})) == list(local.with_columns({"alt_text": "text"}))


def test_many_readers_here_decompress_each_row_group_once(local, tmp_path, monkeypatch):
    read, download = [], StreamedRows._download
    monkeypatch.setattr(StreamedRows, "_download", lambda rows, group: read.append(group) or download(rows, group))
    settings = {"num_cached_rows": 6, "num_readers": 4, "folder": tmp_path}
    readers = [open_rows(local.files, COLUMNS, **settings) for _ in range(4)]
    found = [readers[index % 4][index] for index in range(24)]
    assert found == list(local) and sorted(read) == [0, 1, 2, 3]
    assert type(open_rows(local.files, COLUMNS, num_cached_rows=6, num_readers=1)) is ParquetRows


def test_only_the_wanted_columns_of_the_wanted_row_groups_travel_and_only_once(urls, local, hub, tmp_path):
    rows = StreamedRows(urls, {"image_id": "id"}, folder=tmp_path)
    hub.ranges.clear()
    assert rows[13]["id"] == "image-013"
    column = pq.ParquetFile(local.files[1]).metadata.row_group(0).column(0)
    assert sum(size for _, size in hub.ranges) == column.total_compressed_size
    hub.ranges.clear()
    assert rows[14]["id"] == "image-014"
    other = StreamedRows(urls, {"image_id": "id"}, folder=tmp_path)
    hub.ranges.clear()  # Another reader of the machine reads the footers, and then finds the row group here.
    assert other[15]["id"] == "image-015"
    assert not hub.ranges


def test_no_more_rows_are_kept_than_three_windows(urls, local, tmp_path):
    rows = StreamedRows(urls, {"image_id": "id"}, num_cached_rows=0, folder=tmp_path)  # And a row group more: 6 rows.
    expected = list(local.with_columns({"image_id": "id"}))
    for _ in range(2):
        assert list(rows) == expected
        assert len(list(tmp_path.rglob("*.arrow"))) == 3
        assert sum(map(len, rows._tables.values())) <= 6


def test_as_many_rows_are_kept_as_workers_have_at_hand(urls, hub, tmp_path):
    rows = StreamedRows(urls, {"image_id": "id"}, num_cached_rows=0, num_kept_rows=24, folder=tmp_path)
    assert len(list(rows)) == 24
    hub.ranges.clear()
    assert len(list(rows)) == 24
    assert not hub.ranges


def test_a_batch_fetches_its_row_groups_together(urls, hub, tmp_path):
    rows = StreamedRows(urls, COLUMNS, folder=tmp_path)
    batch = PositionDataset(rows, min_side=8).__getitems__([0, 7, 24 + 20])
    assert [row["id"] for row in batch] == ["image-000", "image-007", "image-020"]
    assert len(list(tmp_path.rglob("*.arrow"))) == 3


@pytest.fixture
def answers(monkeypatch):
    """What the server answers instead of a file's next parts: a list of statuses, the last one at the end."""
    monkeypatch.setattr(streamed_rows, "RETRY_SECONDS", (0, 0, 0))
    statuses, resolve = [], Handler.resolve

    def answer(handler, repo, name):
        if statuses and handler.headers.get("Range") is not None:
            return handler.refuse(statuses.pop(), "", "No.")
        return resolve(handler, repo, name)

    monkeypatch.setattr(Handler, "resolve", answer)
    return statuses


def test_a_network_that_comes_back_is_waited_for(urls, local, answers, tmp_path, caplog):
    rows = StreamedRows(urls, COLUMNS, folder=tmp_path)
    answers += [503, 500, 503]
    assert rows[3] == local[3]
    assert caplog.text.count("trying again in 0 s") == 3


def test_a_network_that_stays_away_ends_with_what_to_do(urls, answers, tmp_path):
    rows = StreamedRows(urls, COLUMNS, folder=tmp_path)
    answers += [503] * 50
    with pytest.raises(ConnectionError, match="row group 0 of http.* cannot be read .*503.*Check address, network"):
        rows[3]
    assert len(answers) == 46


def test_a_refusal_is_not_asked_again(urls, answers, tmp_path):
    rows = StreamedRows(urls, COLUMNS, folder=tmp_path)
    answers += [403] * 50
    with pytest.raises(ConnectionError, match="cannot be read .*403"):
        rows[3]
    assert len(answers) == 49


def test_a_missing_file_is_named(hub, tmp_path):
    with pytest.raises(ConnectionError, match=r"nowhere\.parquet cannot be read \(FileNotFoundError"):
        StreamedRows([f"{hub.url}/{REPO}/resolve/main/nowhere.parquet"], COLUMNS, folder=tmp_path)


# Whole runs


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    make_tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def start(hub, processor, tmp_path):
    """Trains nine steps (an epoch has six) in new processes that see the server as the Hub."""

    def start(name, dataset="me/i2e", *, processes=1, kill_at_step=None, **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        settings = {"tokenizer_name": str(processor), "max_steps": 9, "save_steps": 4, "streaming": True, **changes}
        recipe = train_runs.write_recipe(folder, dataset=str(dataset), **settings)
        cache = tmp_path / f"{name}-cache"
        return run_processes(run, processes, hub.url, cache, [recipe, f"--output_dir={folder}"], kill_at_step), cache

    return start


def run(url, cache, arguments, kill_at_step):
    with pytest.MonkeyPatch.context() as patch:
        connect(patch, url, cache)
        return train_runs.run(arguments, kill_at_step=kill_at_step)


def connect(patch, url, cache: Path):
    """Takes the server at a URL for the Hub, and keeps what comes from it in a folder of the test."""
    patch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache / "hub"))
    patch.setattr(datasets.config, "HF_ENDPOINT", url)
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")


@pytest.fixture(scope="module")
def expected(folder, processor, tmp_path_factory):
    """Losses and positions of the run on the folder itself."""
    output_dir = tmp_path_factory.mktemp("expected")
    recipe = train_runs.write_recipe(output_dir, dataset=str(folder), tokenizer_name=str(processor), max_steps=9)
    (result,) = run_processes(run_here, 1, [recipe, f"--output_dir={output_dir}"])
    return result


def run_here(arguments):
    return train_runs.run(arguments)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_streamed_run_killed_in_mid_epoch_is_the_run_on_the_files(start, expected, num_workers, hub):
    hub.ranges.clear()
    ((code,), _) = start("run", kill_at_step=8, dataloader_num_workers=num_workers)
    assert code == -signal.SIGKILL
    ((rest,), cache) = start("run", dataloader_num_workers=num_workers)
    assert rest["losses"] == expected["losses"]
    assert hub.ranges
    assert not list(cache.rglob("*train-*.parquet"))
    if num_workers == 0:
        assert rest["positions"] == expected["positions"][-len(rest["positions"]) :]


def test_two_streaming_processes_see_the_batches_of_one(start, expected):
    (results, _) = start("run", processes=2, per_device_train_batch_size=2)
    assert results[0]["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    seen = [position for result in results for position in result["positions"]]
    assert sorted(seen) == sorted(expected["positions"])


def test_a_run_that_downloads_first_is_the_same(start, expected, hub):
    hub.ranges.clear()
    ((result,), _) = start("run", streaming=False)
    assert result == expected
    assert not hub.ranges


def test_a_plain_address_streams_too(start, expected, hub, folder):
    address = f"{hub.url}/{REPO}/resolve/main/data/train-00000-of-00002.parquet"
    entities = f"{hub.url}/{REPO}/resolve/main/entities.parquet"
    ((result,), _) = start("run", address, entities=entities, max_steps=3)
    local = {"entities": str(folder / "entities.parquet"), "max_steps": 3}
    ((other,), _) = start("local", folder / "data" / "train-00000-of-00002.parquet", **local)
    assert result == other
