"""Turns Apple's release of MOFI (a CLIP export without a head) into a MOFI checkpoint, and says what it decided.

    python -m modeling_mofi.hub.convert_apple mofi-b16-hf.zip --output_dir mofi-b16 [--verify IMAGE_FOLDER]

Sizes are read from the tensors, the pooling from configuration and tokenizer. `--verify` compares the cosines of
mofi-h14 on the release's three photographs with those of its README.
"""

import argparse
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerBase

from ..configuration_mofi import MofiConfig
from ..image_processing_mofi import MofiImageProcessor
from ..modeling_mofi import MofiModel
from ..processing_mofi import MofiProcessor
from ..user_errors import run_command
from ..whole_files import write_json
from .model_card import ORIGIN_NAME, write_model_card
from .release_cosines import verify


logger = logging.getLogger(__name__)

DEFAULT_LOGIT_SCALE = 2.6592
# torch.load(weights_only=True) could be made to run code before 2.6, and again before 2.10.
FIRST_TRUSTED_TORCH = (2, 10)
PROBES = ("a", "a photo of a poodle", "The quick brown fox, 1999: zebra & café!")
ORIGIN = {
    "license": "other",
    "license_name": "apple-ml-mofi",
    "license_link": "https://github.com/apple/ml-mofi",
    "notice": "The weights are those of Apple's release (https://github.com/apple/ml-mofi), converted without "
    "change. Its terms hold for them: read the license in that repository, and the license files beside this card if "
    "there are any, before you use or share the model.",
}


def convert(release: str | Path, *, output_dir: str | Path, allow_pickle: bool = False) -> list[str]:
    """Writes a MOFI checkpoint with processor and model card, and returns what was decided and found, line by line.

    Args:
        release: Folder or .zip with config.json, weights and tokenizer in CLIP's layout.
        allow_pickle: Whether .bin weights may be read where there are no safetensors.

    Raises:
        ValueError: If the release is incomplete, of another layout, or has only pickled weights.
    """
    output_dir = Path(output_dir)
    with opened_release(Path(release)) as folder:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if given.get("model_type") not in ("clip", "mofi"):
            raise ValueError(
                f"{release} is a {given.get('model_type')!r} model; Apple's MOFI release has CLIP's layout."
            )
        weights, report = read_weights(folder, allow_pickle=allow_pickle), []
        tokenizer = load_tokenizer(folder)
        config = read_config(given, weights, report)
        report += fit_tokenizer(tokenizer, config)
        report += choose_pooling(tokenizer, config)
        report += check_logit_scale(weights)
        model = build_model(config, weights)
        size = config.vision_config.image_size
        image_processor = MofiImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        model.save_pretrained(output_dir)
        MofiProcessor(image_processor, tokenizer).save_pretrained(output_dir)
        for path in (*folder.glob("LICENSE*"), *folder.glob("ACKNOWLEDGEMENTS*")):
            shutil.copyfile(path, output_dir / path.name)
    write_json(output_dir / ORIGIN_NAME, ORIGIN)
    write_model_card(output_dir)
    return report


@contextmanager
def opened_release(path: Path) -> Iterator[Path]:
    """Gives the folder that holds config.json; a zip is unpacked to a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        root = path
        if path.is_file():
            if not zipfile.is_zipfile(path):
                raise ValueError(f"{path} is neither a folder nor a complete .zip file; download it again.")
            with zipfile.ZipFile(path) as archive:
                # `extractall` drops "..", drive letters and leading slashes from names.
                archive.extractall(temporary)
            root = Path(temporary)
        configs = sorted(root.rglob("config.json"), key=lambda found: len(found.parts))
        if not configs:
            raise ValueError(f"{path} has no config.json; give the release's zip file or the folder unpacked from it.")
        yield configs[0].parent


def read_weights(folder: Path, *, allow_pickle: bool) -> dict[str, torch.Tensor]:
    """All tensors by name, out of one safetensors file or several."""
    files, pickles = sorted(folder.glob("*.safetensors")), sorted(folder.glob("*.bin"))
    if files:
        tensors: dict[str, torch.Tensor] = {}
        for path in files:
            tensors |= load_file(path)
        index = folder / "model.safetensors.index.json"
        expected = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"]) if index.is_file() else set()
        if missing := expected - set(tensors):
            raise ValueError(f"{folder} lacks a shard: {len(missing)} tensors of {index.name} are in no file.")
        return tensors
    if not pickles:
        raise ValueError(f"{folder} has no weights: no .safetensors and no .bin file.")
    version = tuple(map(int, torch.__version__.split("+")[0].split(".")[:2]))
    if not allow_pickle or version < FIRST_TRUSTED_TORCH:
        raise ValueError(
            f"{folder} has only pickled weights ({pickles[0].name}). Take the release's safetensors, or pass "
            f"--allow_pickle with torch {'.'.join(map(str, FIRST_TRUSTED_TORCH))} or later (this is "
            f"{torch.__version__}), which reads tensors only."
        )
    return {
        name: tensor
        for path in pickles
        for name, tensor in torch.load(path, weights_only=True, map_location="cpu").items()
    }


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The release's own tokenizer; there is no other that fits."""
    if not list(folder.glob("tokenizer*")) and not (folder / "vocab.json").is_file():
        raise ValueError(f"{folder} has no tokenizer files; the release's zip holds them beside config.json.")
    return AutoTokenizer.from_pretrained(folder)


def read_config(given: dict[str, Any], weights: dict[str, torch.Tensor], report: list[str]) -> MofiConfig:
    """Takes every size from the tensors, and from config.json what tensors do not tell."""
    try:
        sizes = {"vision_config": vision_sizes(weights), "text_config": text_sizes(weights)}
        projection_dim = weights["visual_projection.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"The weights have no {error}; this is not CLIP's layout.") from error
    towers = {}
    for name, kind in (("vision_config", CLIPVisionConfig), ("text_config", CLIPTextConfig)):
        own = dict(given.get(name) or {})
        changed = [f"{key} {own[key]} -> {size}" for key, size in sizes[name].items() if own.get(key, size) != size]
        if changed:
            report.append(f"{name}: the tensors differ from config.json, and count: {', '.join(changed)}")
        if "num_attention_heads" not in own:
            own["num_attention_heads"] = max(1, sizes[name]["hidden_size"] // 64)
            report.append(f"{name}: config.json has no num_attention_heads; CLIP's 64 per head is assumed")
        towers[name] = kind(**{**own, **sizes[name]})
    return MofiConfig(**towers, projection_dim=projection_dim)


def vision_sizes(weights: dict[str, torch.Tensor]) -> dict[str, int]:
    hidden_size, _, patch_size, _ = weights["vision_model.embeddings.patch_embedding.weight"].shape
    num_positions = weights["vision_model.embeddings.position_embedding.weight"].shape[0]
    return {
        "hidden_size": hidden_size,
        "patch_size": patch_size,
        "image_size": round((num_positions - 1) ** 0.5) * patch_size,
        **layer_sizes(weights, "vision_model"),
    }


def text_sizes(weights: dict[str, torch.Tensor]) -> dict[str, int]:
    vocab_size, hidden_size = weights["text_model.embeddings.token_embedding.weight"].shape
    num_positions = weights["text_model.embeddings.position_embedding.weight"].shape[0]
    sizes = {"vocab_size": vocab_size, "hidden_size": hidden_size, "max_position_embeddings": num_positions}
    return sizes | layer_sizes(weights, "text_model")


def layer_sizes(weights: dict[str, torch.Tensor], tower: str) -> dict[str, int]:
    prefix = f"{tower}.encoder.layers."
    layers = {int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)}
    return {
        "num_hidden_layers": len(layers),
        "intermediate_size": weights[f"{prefix}0.mlp.fc1.weight"].shape[0],
    }


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, config: MofiConfig) -> list[str]:
    """Pads and truncates on the right to the tower's context, and has every text end with EOS."""
    report, context = [], config.text_config.max_position_embeddings
    if tokenizer.padding_side != "right":
        report.append("tokenizer: padded on the left, which shifts positions; set to the right")
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.model_max_length != context:
        report.append(f"tokenizer: cuts texts off at {context} tokens, the text tower's context")
        tokenizer.model_max_length = context
    if tokenizer.eos_token_id is not None and tokenizer(PROBES[1])["input_ids"][-1] != tokenizer.eos_token_id:
        append_eos(tokenizer)
        report.append(f"tokenizer: wrote no EOS; now every text ends with {tokenizer.eos_token!r}")
    if len(tokenizer) > config.text_config.vocab_size:
        report.append(
            f"tokenizer: has {len(tokenizer)} tokens, the tower {config.text_config.vocab_size}; ids beyond will fail"
        )
    for name in ("bos", "eos", "pad"):
        setattr(config.text_config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    return report


def append_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Rewrites the post-processor of a fast tokenizer: what it writes before a text stays, EOS comes after."""
    from tokenizers.processors import TemplateProcessing

    before = [token for token in tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"]) if token]
    special = {token: tokenizer.convert_tokens_to_ids(token) for token in (*before, tokenizer.eos_token)}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*before, "$A", tokenizer.eos_token], special_tokens=list(special.items())
    )


def choose_pooling(tokenizer: PreTrainedTokenizerBase, config: MofiConfig) -> list[str]:
    """Sets `text_pooling`: at EOS where the tokenizer writes one, at the highest id where it has none."""
    eos = tokenizer.eos_token_id
    if eos is None:
        config.text_config.eos_token_id, config.text_pooling = 2, "argmax"
        return ["text_pooling: argmax, since the tokenizer has no EOS token"]
    config.text_pooling = "eos_first"
    is_highest = all(max(ids) == eos for ids in tokenizer(list(PROBES))["input_ids"])
    agrees = (
        "the highest id of a text, where CLIP's argmax pools too" if is_highest else "not the highest id of a text"
    )
    return [f"text_pooling: eos_first at id {eos} ({tokenizer.eos_token!r}), {agrees}"]


def check_logit_scale(weights: dict[str, torch.Tensor]) -> list[str]:
    """Warns about a `logit_scale` that was never trained, as an exporter that forgot it leaves behind."""
    scale = weights.get("logit_scale")
    if scale is not None and abs(scale.item() - DEFAULT_LOGIT_SCALE) > 1e-3:
        return [f"logit_scale: {scale.item():.4f}"]
    weights["logit_scale"] = torch.tensor(DEFAULT_LOGIT_SCALE)
    return [
        f"logit_scale: {DEFAULT_LOGIT_SCALE}, the default, so most likely not the trained one; use cosines, not "
        "logits_per_image"
    ]


def build_model(config: MofiConfig, weights: dict[str, torch.Tensor]) -> MofiModel:
    """A model with exactly these weights."""
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith(".position_ids")}
    model = MofiModel(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"The weights do not fit: {len(missing)} missing ({', '.join(missing[:3])}), {len(unexpected)} unknown "
            f"({', '.join(unexpected[:3])})."
        )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", help="zip file, or the folder unpacked from it")
    parser.add_argument("--output_dir", required=True, help="where the checkpoint goes")
    parser.add_argument("--allow_pickle", action="store_true", help="read .bin weights where there are no safetensors")
    parser.add_argument("--verify", metavar="IMAGE_FOLDER", help="folder with poodle, husky and cat photographs")
    args = parser.parse_args()
    print("\n".join(convert(args.release, output_dir=args.output_dir, allow_pickle=args.allow_pickle)))
    print(f"written: {args.output_dir}")
    if args.verify:
        is_match, table = verify(args.output_dir, args.verify)
        print(table)
        raise SystemExit(0 if is_match else 1)


if __name__ == "__main__":
    run_command(main)
