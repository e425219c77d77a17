"""Exports both towers of a checkpoint to ONNX, with a batch of any size, and checks them against the model.

    python -m modeling_mofi.hub.export_onnx runs/sample/mofi --output_dir runs/sample/onnx

`vision_model.onnx` takes pixel_values and gives image_embeds; `text_model.onnx` takes input_ids and attention_mask and
gives text_embeds. Both are of unit length.
"""

import argparse
import logging
import os
from pathlib import Path

import onnxruntime
import torch

from ..processing_mofi import MofiProcessor
from ..single_towers_mofi import MofiTextModelWithProjection, MofiVisionModelWithProjection
from ..user_errors import run_command


logger = logging.getLogger(__name__)

TOLERANCE = 1e-4


class Embedder(torch.nn.Module):
    """A tower whose forward gives one tensor."""

    def __init__(self, tower: MofiVisionModelWithProjection | MofiTextModelWithProjection, output: str):
        super().__init__()
        self.tower, self.output = tower, output

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.tower(*inputs)[self.output]


def export_onnx(checkpoint: str | os.PathLike, *, output_dir: str | os.PathLike) -> dict[str, float]:
    """Writes both towers and the processor, and returns each tower's largest difference from the model.

    Raises:
        ValueError: If a difference is above 1e-4.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    MofiProcessor.from_pretrained(checkpoint).save_pretrained(output_dir)
    vision = MofiVisionModelWithProjection.from_pretrained(checkpoint, attn_implementation="eager").eval()
    text = MofiTextModelWithProjection.from_pretrained(checkpoint, attn_implementation="eager").eval()
    differences = {
        "vision_model": export_tower(
            Embedder(vision, "image_embeds"), vision_inputs(vision), output_dir / "vision_model.onnx"
        ),
        "text_model": export_tower(Embedder(text, "text_embeds"), text_inputs(text), output_dir / "text_model.onnx"),
    }
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ValueError(f"{name}.onnx differs from the model by {difference:.2e}, more than {TOLERANCE:.0e}.")
    return differences


def vision_inputs(tower: MofiVisionModelWithProjection, *, batch_size: int = 2) -> dict[str, torch.Tensor]:
    size = tower.config.vision_config.image_size
    return {"pixel_values": torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0))}


def text_inputs(
    tower: MofiTextModelWithProjection, *, batch_size: int = 2, length: int = 6
) -> dict[str, torch.Tensor]:
    """Random ids, each text ended by EOS, the last ones shorter and padded."""
    text = tower.config.text_config
    input_ids = torch.randint(3, text.vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones_like(input_ids)
    for row in range(batch_size):
        end = max(1, length - 1 - row)
        input_ids[row, end:] = text.eos_token_id
        attention_mask[row, end + 1 :] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def export_tower(embedder: Embedder, inputs: dict[str, torch.Tensor], path: Path) -> float:
    """Writes one tower, runs it on another batch size, and returns the largest difference."""
    shapes = [
        dict.fromkeys((0,) if value.ndim == 4 else (0, 1), torch.export.Dim.DYNAMIC) for value in inputs.values()
    ]
    torch.onnx.export(
        embedder,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=[embedder.output],
        dynamic_shapes=(tuple(shapes),),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    is_text = "input_ids" in inputs
    other = (
        text_inputs(embedder.tower, batch_size=5, length=5) if is_text else vision_inputs(embedder.tower, batch_size=5)
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in other.items()})[0]
    with torch.no_grad():
        expected = embedder(*other.values())
    return (torch.from_numpy(found) - expected).abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--output_dir", required=True, help="where the .onnx files and the processor go")
    args = parser.parse_args()
    for name, difference in export_onnx(args.checkpoint, output_dir=args.output_dir).items():
        print(f"{args.output_dir}/{name}.onnx: largest difference from the model {difference:.1e}")


if __name__ == "__main__":
    run_command(main, extra="onnx")
