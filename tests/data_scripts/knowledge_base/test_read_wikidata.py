"""What becomes of sources that break off and of builds that do, and which languages an entity is read in."""

import bz2
import gzip
import json
import os
import random
import resource
import shutil
import signal
import time

import pytest

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.engine.engines import Engine
from data_scripts.knowledge_base import read_parts, read_wikidata
from data_scripts.knowledge_base.languages import fallback_languages
from data_scripts.knowledge_base.store import KnowledgeBase


@pytest.fixture
def source(tmp_path):
    """A dump of 60 items in Wikidata's form."""
    lines = [json.dumps({"type": "item", "id": f"Q{n}", "labels": terms(en=f"thing {n}")}) for n in range(1, 61)]
    path = tmp_path / "dump.json"
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(read_parts, "PART_BYTES", 600)


def terms(**texts):
    return {code.replace("_", "-"): {"language": code, "value": text} for code, text in texts.items()}


def build(source, folder, **settings):
    arguments = KnowledgeBaseArguments(
        str(source), str(folder), **({"exclusions": None, "min_sitelinks": 0} | settings)
    )
    return build_knowledge_base(arguments)


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_killed(source, folder, seconds):
    """Builds in a child that is killed after a while; whether it was still at work then."""
    child = os.fork()
    if child == 0:
        build(source, folder)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_eight_random_moments_and_built_again_gives_the_same_bytes(source, tmp_path):
    build(source, tmp_path / "whole")
    started = time.perf_counter()
    build(source, tmp_path / "again")
    duration = time.perf_counter() - started
    generator = random.Random(0)
    for folder in (tmp_path / str(number) for number in range(2)):
        killed = 0
        while killed < 4:
            if run_killed(source, folder, generator.uniform(0, duration)):
                killed += 1
            else:
                shutil.rmtree(folder)
        build(source, folder)
        assert read_files(folder) == read_files(tmp_path / "whole")


def build_with_full_disk(source, folder, max_bytes):
    """Builds in a child that can write no file beyond some bytes, as on a full disk; its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
            build(source, folder)
            status = 0
        except OSError as error:
            status = 2 if str(folder) in str(error) else 3
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# The parts do not fit, or the database, or the alias table, or the words' weights (4 MB).
@pytest.mark.parametrize("max_bytes", [1_000, 20_000, 600_000, 4_000_000])
def test_a_full_disk_is_named_and_the_build_resumed_to_the_same_bytes(max_bytes, source, tmp_path):
    assert build_with_full_disk(source, tmp_path / "kb", max_bytes) == 2
    build(source, tmp_path / "kb")
    build(source, tmp_path / "whole")
    assert read_files(tmp_path / "kb") == read_files(tmp_path / "whole")


@pytest.fixture
def interrupted(source, tmp_path, monkeypatch):
    """A folder with all its parts read and nothing made of them yet."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "data_scripts.build_knowledge_base.join_sources", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            build(source, tmp_path / "kb")
    return tmp_path / "kb"


@pytest.mark.parametrize("damage", ["missing", "cut", "counts missing", "counts cut"])
def test_a_damaged_part_is_read_again(damage, interrupted, source, tmp_path):
    part = next(interrupted.glob("parts-*/base/part-000002.parquet"))
    path = part.with_suffix(".json") if damage.startswith("counts") else part
    content = path.read_bytes()
    path.unlink()
    if damage.endswith("cut"):
        path.write_bytes(content[: len(content) // 2])
    build(source, interrupted)
    build(source, tmp_path / "whole")
    assert read_files(interrupted) == read_files(tmp_path / "whole")


@pytest.mark.parametrize("name", ["aliases.marisa", "entities.arrow", "tokens.npy", "manifest.json"])
def test_a_damaged_knowledge_base_is_built_again(name, source, tmp_path):
    folder = build(source, tmp_path / "kb")
    before = read_files(folder)
    (folder / name).write_bytes(before[name][: len(before[name]) // 2])
    build(source, folder)
    assert read_files(folder) == before


@pytest.mark.parametrize(
    "settings", [{"language": "de"}, {"min_sitelinks": 1}, {"exclusions": "x.yaml"}, {"anchor_counts": "x.tsv"}]
)
def test_other_settings_in_the_same_folder_are_refused(settings, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("[]\n")
    (tmp_path / "x.tsv").write_text("thing\tQ1\t5\n")
    build(source, tmp_path / "kb")
    with pytest.raises(ValueError, match="another source or other settings"):
        build(source, tmp_path / "kb", **settings)


@pytest.mark.parametrize("file", ["exclusions", "anchor_counts"])
def test_another_content_of_a_file_of_the_settings_is_refused(file, source, tmp_path):
    contents = {
        "exclusions": ("[]\n", "[{type: Q9, name: n, reason: r}]\n"),
        "anchor_counts": ("a\tQ1\t5\n", "a\tQ1\t6\n"),
    }
    (tmp_path / "x").write_text(contents[file][0])
    build(source, tmp_path / "kb", **{file: str(tmp_path / "x")})
    (tmp_path / "x").write_text(contents[file][1])
    with pytest.raises(ValueError, match="another source or other settings"):
        build(source, tmp_path / "kb", **{file: str(tmp_path / "x")})


def test_a_knowledge_base_of_another_format_is_refused_with_both_numbers(source, tmp_path):
    folder = build(source, tmp_path / "kb")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 1}))
    with pytest.raises(ValueError, match="format 1, this program writes"):
        build(source, folder)


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_a_compressed_dump_that_breaks_off_is_refused_with_its_name(compress, num_processes, source, tmp_path):
    ending = "gz" if compress is gzip.compress else "bz2"
    cut = source.with_name(f"cut.json.{ending}")
    content = compress(source.read_bytes())
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"cut\.json\.{ending} breaks off or is damaged"):
        build(cut, tmp_path / "kb", num_processes=num_processes)


def test_a_dump_that_breaks_off_in_a_line_is_refused_with_the_line(source, tmp_path):
    lines = source.read_text().splitlines(keepends=True)
    source.write_text("".join(lines[:20]) + lines[20][:15])
    with pytest.raises(ValueError, match=r"breaks off on line 21: a dump ends in"):
        build(source, tmp_path / "kb")


@pytest.mark.parametrize(
    ("language", "name", "aliases"),
    [
        ("pt-br", "abacaxi", ["piña", "ananas comosus"]),
        ("pt", "ananás", ["ananas comosus", "piña"]),
        ("fi", "Ananas", ["ananas comosus"]),
    ],
)
def test_a_language_falls_back_to_its_own_and_to_what_is_for_all(language, name, aliases):
    pt_br = {"pt-br": [{"language": "pt-br", "value": "piña"}]}
    mul = {"mul": [{"language": "mul", "value": "ananas comosus"}]}
    labels = terms(pt_br="abacaxi", pt="ananás", mul="Ananas")
    entity = read_wikidata.read_wikidata_record(
        {"id": "Q1", "labels": labels, "aliases": pt_br | mul}, languages=fallback_languages(language)
    )
    assert (entity["name"], entity["aliases"]) == (name, aliases)


def test_redirects_and_items_whose_parts_are_empty_lists_are_no_mistake(tmp_path):
    records = [
        {"entity": "Q1", "redirect": "Q2"},
        {"type": "item", "id": "Q2", "labels": terms(en="thing"), "aliases": [], "claims": [], "sitelinks": []},
        {"type": "item", "id": "Q3", "labels": [], "descriptions": []},
    ]
    path = tmp_path / "dump.json"
    path.write_text("[\n" + "".join(json.dumps(record) + ",\n" for record in records) + "]")
    kb = KnowledgeBase(build(path, tmp_path / "kb"))
    assert kb.table["entity_id"].to_pylist() == ["Q2"]
    assert kb.manifest["counts"] == {"is a redirect": 1, "kept": 1, "no name in en": 1, "read": 3}


def claim(target, rank="normal"):
    value = {"entity-type": "item", "id": target}
    snak = {"snaktype": "value", "datavalue": {"type": "wikibase-entityid", "value": value}}
    return {"mainsnak": snak, "rank": rank}


def write_dump(path, records):
    path.write_text("[\n" + "".join(json.dumps(record) + ",\n" for record in records) + "]\n")
    return path


def test_preferred_statements_alone_count_where_there_are_any(tmp_path):
    records = [
        {"type": "item", "id": "Q1", "labels": terms(en="Fox"), "claims": {"P31": claims}}
        for claims in (
            [claim("Q101352"), claim("Q5", "preferred")],
            [claim("Q101352", "deprecated"), claim("Q6")],
            [claim("Q7"), claim("Q8")],
        )
    ]
    found = [read_wikidata.read_record(record, languages=("en",))["types"] for record in records]
    assert found == [["Q5"], ["Q6"], ["Q7", "Q8"]]


def test_of_an_item_that_is_there_twice_the_later_counts(tmp_path):
    records = [
        {"type": "item", "id": entity_id, "labels": terms(en=name), "aliases": {"en": [{"value": name + "s"}]}}
        for entity_id, name in (("Q1", "tiger"), ("Q2", "fox"), ("Q1", "lion"))
    ]
    kb = KnowledgeBase(build(write_dump(tmp_path / "dump.json", records), tmp_path / "kb"))
    assert kb.table.select(["name", "aliases"]).to_pylist() == [
        {"name": "fox", "aliases": ["foxs"]},
        {"name": "lion", "aliases": ["lions"]},
    ]
    assert kb.manifest["counts"]["superseded by a later line"] == 1


ODD = [
    {"type": "item", "id": "Q2", "labels": {"en": {"value": None}}},
    {"id": "Q3", "type": "item", "labels": {"en": "tiger"}, "claims": {"P31": ["Q5"]}},
    "tiger",
]


def test_odd_lines_are_counted_by_reason_with_the_numbers_of_the_first(tmp_path, caplog):
    records = [{"type": "item", "id": "Q1", "labels": terms(en="tiger")}, *ODD]
    kb = KnowledgeBase(build(write_dump(tmp_path / "dump.json", records), tmp_path / "kb"))
    assert kb.manifest["counts"] == {
        "kept": 1,
        "odd: a name or description is null": 1,
        "odd: line is no JSON object": 1,
        "odd: not the form of Wikidata's dump; simplified?": 1,
        "read": 4,
    }
    assert "line is no JSON object (1 times, first on line 5)" in caplog.text


def test_more_odd_lines_than_may_be_end_the_build(tmp_path):
    with pytest.raises(ValueError, match=r"3 odd lines, more than --max_bad_lines 2: .* \(1 times, first on line 2\)"):
        build(write_dump(tmp_path / "dump.json", ODD), tmp_path / "kb", max_bad_lines=2)


def die(*_, **__):
    os._exit(9)


def test_the_death_of_a_worker_is_noticed_with_what_it_was_at(source, tmp_path, monkeypatch):
    monkeypatch.setattr(read_parts, "parse_part", die)
    with (
        Engine(num_processes=2) as engine,
        pytest.raises(ChildProcessError, match=r"the worker at part \d+ of .*dump\.json died"),
    ):
        read_parts.read_source(str(source), tmp_path / "parts", languages=("en",), max_bad_lines=0, engine=engine)


def test_british_names_are_better_than_none(tmp_path):
    records = [{"type": "item", "id": "Q5", "labels": {"en-gb": {"value": "colour tiger"}}}]
    kb = KnowledgeBase(build(write_dump(tmp_path / "dump.json", records), tmp_path / "kb"))
    assert kb.table["name"].to_pylist() == ["colour tiger"]
