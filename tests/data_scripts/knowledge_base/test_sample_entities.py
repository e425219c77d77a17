"""The sample's knowledge base has each thing once, and every entity that its gold columns name."""

import gzip
import json
from collections import Counter

import pyarrow.parquet as pq
import pytest


# Words for two things each, by intent.
HOMONYMS = {"car", "duck", "mouse", "spider", "turkey"}


@pytest.fixture(scope="module")
def entities():
    with gzip.open("sample_data/entities.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_described_things_share_a_name_only_where_it_means_two_things(entities):
    names = Counter(entity["name"] for entity in entities if entity["source"] == "sample")
    assert {name for name, count in names.items() if count > 1} == HOMONYMS


def test_no_two_entities_have_name_and_description_in_common(entities):
    described = Counter((entity["name"], entity["description"]) for entity in entities)
    assert described.most_common(1)[0][1] == 1


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_gold_entity_is_in_the_knowledge_base(split, entities):
    columns = ["gold_entity_id", "gold_text_entity_id"]
    table = pq.read_table(f"sample_data/pairs/{split}.parquet", columns=columns)
    gold = {entity_id for name in columns for entity_id in table[name].to_pylist() if entity_id}
    assert gold and gold <= {entity["entity_id"] for entity in entities}
