"""Nothing secret, local or with markup in it is published."""

import json

import pytest

from modeling_mofi.hub.public_text import plain_text, public_setting
from modeling_mofi.hub.publishing import public_copy
from modeling_mofi.hub.templates import code_span


@pytest.mark.parametrize(
    ("value", "public"),
    [
        ("https://me:secret@example.org/a/b.parquet", "https://example.org/a/b.parquet"),
        ("s3://bucket/x.tar?X-Amz-Signature=abc&X-Amz-Date=1", "s3://bucket/x.tar"),
        ("https://example.org/x#token=abc", "https://example.org/x"),
        ("/home/ann/data/my_i2e", "my_i2e"),
        ("/home/ann/data/my_i2e/", "my_i2e"),
        ("~/models/clip", "clip"),
        (r"C:\Users\ann\clip", "clip"),
        ("https://u:p@ss@h/x", "https://h/x"),
        ("https://u:p/q@h/x", "https://h/x"),
        ("https://h/a;token=x", "https://h/a"),
        ("https://example.org/@ann/x", "https://example.org/@ann/x"),
        ("hf_" + "a" * 34, "..."),
        ("pipe:curl -H 'Authorization: Bearer abc.def'", "pipe:curl -H 'Authorization: Bearer ...'"),
        ("file:///home/ann/x.tar", "x.tar"),
        (r"\\srv\share\x", "x"),
        ({"/home/ann/a": 1}, {"a": 1}),
        ("hf_transfer", "hf_transfer"),
        ("owner/data", "owner/data"),
        ("runs/sample/i2e", "runs/sample/i2e"),
        ({"a": ["/x/y", 3, None]}, {"a": ["y", 3, None]}),
        (True, True),
    ],
)
def test_settings_lose_secrets_and_local_folders(value, public):
    assert public_setting(value) == public


def test_markup_of_others_stays_text():
    assert plain_text("CC-BY\n# [me](http://x) <b>|") == r"CC-BY \# \[me\](http://x) \<b\>\|"
    assert code_span("a`b\n|c") == r"`a'b \|c`"


def test_the_published_recipe_names_no_secret_and_the_one_here_stays(tmp_path):
    recipe = {"dataset": "/home/ann/i2e", "url": "https://u:p@h/x?token=1"}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with public_copy(tmp_path) as public:
        assert json.loads((public / "recipe.json").read_text()) == {"dataset": "i2e", "url": "https://h/x"}
        assert (public / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((tmp_path / "recipe.json").read_text()) == recipe
