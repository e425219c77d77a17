"""The towers as graphs: torch.export, torch.compile without breaks, ONNX with batches of any size."""

import pytest
import torch
from tiny import make_tiny_config, make_tiny_processor

from modeling_mofi import MofiModel, MofiTextModelWithProjection, MofiVisionModelWithProjection


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    MofiModel(make_tiny_config()).save_pretrained(tmp_path / "checkpoint")
    make_tiny_processor().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def towers(checkpoint, batch_size=2):
    """Each tower with inputs for it."""
    vision = MofiVisionModelWithProjection.from_pretrained(checkpoint).eval()
    text = MofiTextModelWithProjection.from_pretrained(checkpoint).eval()
    input_ids = torch.tensor([[0, 7, 2, 1], [0, 8, 9, 2]])
    return [
        (vision, {"pixel_values": torch.randn(batch_size, 3, 16, 16)}),
        (text, {"input_ids": input_ids, "attention_mask": (input_ids != 1).long()}),
    ]


@pytest.mark.parametrize("place", [0, 1], ids=["vision", "text"])
@torch.no_grad()
def test_tower_compiles_without_graph_breaks(checkpoint, place):
    tower, inputs = towers(checkpoint)[place]
    torch._dynamo.reset()
    compiled = torch.compile(tower, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs)[0], tower(**inputs)[0])


@pytest.mark.parametrize("place", [0, 1], ids=["vision", "text"])
@torch.no_grad()
def test_tower_is_exported_by_torch(checkpoint, place):
    tower, inputs = towers(checkpoint)[place]
    program = torch.export.export(tower, (), inputs, strict=False)
    torch.testing.assert_close(program.module()(**inputs)[0], tower(**inputs)[0])


def test_onnx_gives_the_models_embeddings_for_other_batch_sizes(checkpoint, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from modeling_mofi.hub.export_onnx import export_onnx

    differences = export_onnx(checkpoint, output_dir=tmp_path / "onnx")
    assert set(differences) == {"vision_model", "text_model"} and max(differences.values()) <= 1e-4
    assert (tmp_path / "onnx/vision_model.onnx").is_file() and (tmp_path / "onnx/tokenizer.json").is_file()
