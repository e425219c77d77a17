"""A filter model is data: nothing that lies in its folder is run."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from data_scripts.images.filter_model import open_filter_model


@pytest.fixture
def folder(clip, tmp_path):
    return Path(shutil.copytree(clip, tmp_path / "model"))


class RunsCode:
    """Pickles to something that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_weights_are_not_opened(folder, tmp_path):
    weights = {"logit_scale": torch.ones(()), "x": RunsCode(tmp_path / "was_run")}
    torch.save(weights, folder / "pytorch_model.bin")
    open_filter_model.cache_clear()
    assert open_filter_model(str(folder)).model.config.projection_dim == 8
    (folder / "model.safetensors").unlink()
    torch.save({"logit_scale": torch.ones(())}, folder / "pytorch_model.bin")
    open_filter_model.cache_clear()
    with pytest.raises(ValueError, match="filter_model .* has no weights in safetensors"):
        open_filter_model(str(folder))
    assert not (tmp_path / "was_run").exists()


CODE = "from pathlib import Path\nPath({path!r}).touch()\nfrom transformers import CLIPConfig, CLIPModel\n"
CODE += "from transformers import CLIPProcessor\n"
AUTO_MAPS = {
    "config.json": {"AutoConfig": "code.CLIPConfig", "AutoModel": "code.CLIPModel"},
    "processor_config.json": {"AutoProcessor": "code.CLIPProcessor"},
}


@pytest.mark.parametrize("name", AUTO_MAPS)
def test_code_beside_a_model_is_not_run(name, folder, tmp_path):
    (folder / "code.py").write_text(CODE.format(path=str(tmp_path / "was_run")))
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": AUTO_MAPS[name]}))
    open_filter_model.cache_clear()
    assert open_filter_model(str(folder)).model.config.projection_dim == 8
    assert not (tmp_path / "was_run").exists()
