"""The converter, on folders and zips made in the layout of Apple's release, with all three sizes shrunk."""

import json
import sys
import zipfile

import pytest
import torch
from apple_release import SIZES, write_release
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, BertConfig

from modeling_mofi import MofiImageProcessor, MofiModel
from modeling_mofi.hub import release_cosines
from modeling_mofi.hub.convert_apple import convert, main


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_every_size_keeps_its_image_embeddings(tmp_path, size):
    clip = write_release(tmp_path / "release", size=size)
    convert(tmp_path / "release", output_dir=tmp_path / "mofi")
    mofi = MofiModel.from_pretrained(tmp_path / "mofi").eval()
    images = torch.randn(2, 3, mofi.config.vision_config.image_size, mofi.config.vision_config.image_size)
    expected = clip.get_image_features(pixel_values=images).pooler_output
    torch.testing.assert_close(mofi.get_image_features(images).pooler_output, expected)
    assert json.loads((tmp_path / "mofi/config.json").read_text(encoding="utf-8"))["model_type"] == "mofi"


@pytest.mark.parametrize(("eos_id", "config_eos"), [(19, 2), (19, 19), (2, 2), (2, 49407)])
@torch.no_grad()
def test_text_is_pooled_at_the_tokenizers_eos_whatever_the_configuration_says(tmp_path, eos_id, config_eos):
    clip = write_release(tmp_path / "release", eos_id=eos_id, config_eos=config_eos)
    report = "\n".join(convert(tmp_path / "release", output_dir=tmp_path / "mofi"))
    mofi, processor = (kind.from_pretrained(tmp_path / "mofi") for kind in (MofiModel, AutoProcessor))
    inputs = processor(text=["a photo of a cat", "a flag"], return_tensors="pt")
    states = clip.text_model(**inputs).last_hidden_state
    positions = (inputs["input_ids"] == eos_id).int().argmax(-1)
    expected = clip.text_projection(states[torch.arange(2), positions])
    torch.testing.assert_close(mofi.eval().get_text_features(**inputs).pooler_output, expected, rtol=1e-4, atol=1e-5)
    assert f"eos_first at id {eos_id}" in report and ("not the highest" in report) == (eos_id == 2)


def test_zip_and_folder_give_the_same_checkpoint(tmp_path):
    write_release(tmp_path / "mofi-b16-hf")
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        for path in (tmp_path / "mofi-b16-hf").iterdir():
            archive.write(path, f"mofi-b16-hf/{path.name}")
    convert(tmp_path / "mofi-b16-hf", output_dir=tmp_path / "from_folder")
    convert(tmp_path / "release.zip", output_dir=tmp_path / "from_zip")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "LICENSE"):
        assert (tmp_path / "from_zip" / name).read_bytes() == (tmp_path / "from_folder" / name).read_bytes()


def test_shards_are_read_and_a_missing_one_is_noticed(tmp_path):
    clip = write_release(tmp_path / "release", max_shard_size="20KB")
    shards = sorted((tmp_path / "release").glob("model-*.safetensors"))
    assert len(shards) > 1
    convert(tmp_path / "release", output_dir=tmp_path / "mofi")
    converted = MofiModel.from_pretrained(tmp_path / "mofi").state_dict()
    torch.testing.assert_close(converted, dict(clip.state_dict()))
    shards[0].unlink()
    with pytest.raises(ValueError, match="lacks a shard"):
        convert(tmp_path / "release", output_dir=tmp_path / "again")


def test_pickled_weights_are_refused_unless_allowed(tmp_path):
    clip = write_release(tmp_path / "release")
    (tmp_path / "release/model.safetensors").unlink()
    torch.save(clip.state_dict(), tmp_path / "release/pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model.bin\).*--allow_pickle"):
        convert(tmp_path / "release", output_dir=tmp_path / "mofi")
    convert(tmp_path / "release", output_dir=tmp_path / "mofi", allow_pickle=True)
    assert (tmp_path / "mofi/model.safetensors").is_file()


def test_tokenizer_gets_eos_right_padding_and_the_context(tmp_path):
    write_release(tmp_path / "release", writes_eos=False, padding_side="left")
    report = "\n".join(convert(tmp_path / "release", output_dir=tmp_path / "mofi"))
    ids = AutoProcessor.from_pretrained(tmp_path / "mofi")(text=["a cat", "a photo of " * 9])["input_ids"]
    assert ids[0] == [1, 4, 9, 2, 0, 0, 0, 0, 0] and len(ids[1]) == 9 and ids[1][0] == 1 and ids[1][-1] == 2
    assert "wrote no EOS" in report and "padded on the left" in report and "off at 9 tokens" in report


def test_sizes_come_from_the_tensors_where_the_configuration_is_wrong(tmp_path):
    write_release(tmp_path / "release")
    path = tmp_path / "release/config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["text_config"] |= {"vocab_size": 50272, "max_position_embeddings": 77}
    config["projection_dim"] = 512
    path.write_text(json.dumps(config), encoding="utf-8")
    report = "\n".join(convert(tmp_path / "release", output_dir=tmp_path / "mofi"))
    assert "vocab_size 50272 -> 20, max_position_embeddings 77 -> 9" in report
    assert MofiModel.from_pretrained(tmp_path / "mofi").config.projection_dim == 16


@pytest.mark.parametrize(
    ("scale", "line"), [(2.6592, "the default"), (4.6052, "logit_scale: 4.6052"), (None, "default")]
)
def test_untrained_logit_scale_is_reported(tmp_path, scale, line):
    write_release(tmp_path / "release")
    path = tmp_path / "release/model.safetensors"
    weights = load_file(path)
    weights.pop("logit_scale")
    save_file(weights | ({} if scale is None else {"logit_scale": torch.tensor(scale)}), path)
    assert line in "\n".join(convert(tmp_path / "release", output_dir=tmp_path / "mofi"))


def test_processor_is_the_releases_transform_and_the_card_names_the_terms(tmp_path):
    write_release(tmp_path / "release")
    convert(tmp_path / "release", output_dir=tmp_path / "mofi")
    processor = AutoProcessor.from_pretrained(tmp_path / "mofi").image_processor
    assert type(processor) is MofiImageProcessor and not processor.antialias and processor.resample == 2
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (32, 32)
    card = (tmp_path / "mofi/README.md").read_text(encoding="utf-8")
    assert "license: other" in card and "github.com/apple/ml-mofi" in card and (tmp_path / "mofi/LICENSE").is_file()


@pytest.mark.parametrize(
    ("break_release", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "has no tokenizer"),
        (lambda folder: BertConfig().save_pretrained(folder), "is a 'bert' model"),
        (lambda folder: save_file({"x": torch.ones(1)}, folder / "model.safetensors"), "this is not CLIP's layout"),
    ],
)
def test_incomplete_releases_are_refused(tmp_path, break_release, message):
    write_release(tmp_path / "release")
    break_release(tmp_path / "release")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "release", output_dir=tmp_path / "mofi")


def test_cut_off_zip_is_refused(tmp_path):
    (tmp_path / "release.zip").write_bytes(b"PK\x03\x04 and not much more")
    with pytest.raises(ValueError, match="neither a folder nor a complete .zip"):
        convert(tmp_path / "release.zip", output_dir=tmp_path / "mofi")


def test_weights_beyond_clips_layout_are_refused(tmp_path):
    write_release(tmp_path / "release")
    path = tmp_path / "release/model.safetensors"
    save_file(load_file(path) | {"extra.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"1 unknown \(extra.weight\)"):
        convert(tmp_path / "release", output_dir=tmp_path / "mofi")


def test_cosines_are_compared_with_the_releases(tmp_path, monkeypatch):
    write_release(tmp_path / "release")
    convert(tmp_path / "release", output_dir=tmp_path / "mofi")
    for word, color in zip(release_cosines.PHOTOGRAPHS, ("red", "green", "blue"), strict=True):
        Image.new("RGB", (40, 50), color).save(tmp_path / f"{word}.jpg")
    is_match, table = release_cosines.verify(tmp_path / "mofi", tmp_path)
    assert not is_match and "NO MATCH" in table
    found = release_cosines.cosines(tmp_path / "mofi", tmp_path)
    monkeypatch.setattr(release_cosines, "COSINES", found.tolist())
    assert release_cosines.verify(tmp_path / "mofi", tmp_path)[0]


def test_photograph_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="has neither Pudel_Grossschwarz.jpg nor a file poodle.jpg"):
        release_cosines.find_photograph(tmp_path, "poodle")


def test_command_converts_and_reports(tmp_path, monkeypatch, capsys):
    write_release(tmp_path / "release")
    command = ["convert", str(tmp_path / "release"), "--output_dir", str(tmp_path / "mofi")]
    monkeypatch.setattr(sys, "argv", command)
    main()
    output = capsys.readouterr().out
    assert "text_pooling: eos_first" in output and f"written: {tmp_path / 'mofi'}" in output
