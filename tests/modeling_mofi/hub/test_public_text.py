"""Nothing secret, local or with markup in it is published."""

import json

import pytest

from modeling_mofi.hub.public_text import plain_text, public_setting
from modeling_mofi.hub.templates import code_span
from modeling_mofi.hub.uploads import public_copy


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
        ("cannot read /home/ann/x.png: no such file", "cannot read x.png: no such file"),
        ("cannot read '/home/ann smith/my x.png'", "cannot read 'my x.png'"),
        ("see (~/x/y) or [C:/Users/ann/z], a=/opt/q", "see (y) or [z], a=q"),
        ("pipe:cat /data/ann/{00..99}.tar", "pipe:cat {00..99}.tar"),
        ("https://h/home/ann/x, file://localhost/home/ann/y", "https://h/home/ann/x, y"),
        ("//server/share/x and //server/share/y", "y"),
        ("a first line\n/home/ann/x", "a first line\nx"),
        ("3 km/h and/or 1 / 2, a photo of {name}", "3 km/h and/or 1 / 2, a photo of {name}"),
        (
            {"hub_token": "any", "tokenizer_name": "b", "password": None},
            {"hub_token": "...", "tokenizer_name": "b", "password": None},
        ),
        ("AKIAABCDEFGHIJKLMNOP and sk-" + "a" * 30, "... and ..."),
        (True, True),
    ],
)
def test_settings_lose_secrets_and_local_folders(value, public):
    assert public_setting(value) == public


def test_what_is_for_its_owner_keeps_its_paths_and_no_secret():
    text = "/home/ann/x, https://u:p@h/x?token=1, hf_" + "a" * 34
    assert public_setting(text, with_paths=True) == "/home/ann/x, https://h/x ..."


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
