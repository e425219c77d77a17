"""Every kind of dual encoder, tiny, with random weights, made in place."""

from tiny import make_tiny_config, make_tiny_processor, make_tiny_tokenizer
from tokenizers import Tokenizer, models, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from modeling_mofi import MofiModel
from modeling_mofi.hub.convert_apple import convert


TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LENGTH = 12


def letters_tokenizer(**options):
    """One token a letter, with PAD 0, BOS 1 and EOS 2."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "<e>", "<?>", *"abcdefghijklmnopqrstuvwxyz ,"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<?>"))
    template = processors.TemplateProcessing(single="<s> $A <e>", special_tokens=[("<s>", 1), ("<e>", 2)])
    tokenizer.post_processor = template
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "<e>", "unk_token": "<?>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **options)


def write_siglip(folder):
    text = TOWER | {"vocab_size": 40, "max_position_embeddings": LENGTH, "projection_size": 16}
    vision = TOWER | {"image_size": 16, "patch_size": 8}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    tokenizer = letters_tokenizer(model_max_length=LENGTH, model_input_names=["input_ids"])
    SiglipProcessor(SiglipImageProcessorPil(size=size), tokenizer).save_pretrained(folder)


def write_siglip2(folder):
    """SigLIP 2 with images of any shape (NaFlex), and a tokenizer that knows no limit, as Gemma's."""
    text = TOWER | {"vocab_size": 40, "max_position_embeddings": LENGTH, "projection_size": 16}
    vision = TOWER | {"num_patches": 4, "patch_size": 16}
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(folder)
    image_processor = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256)
    tokenizer = letters_tokenizer(model_input_names=["input_ids"])
    Siglip2Processor(image_processor, tokenizer).save_pretrained(folder)


def write_mofi(folder):
    MofiModel(make_tiny_config()).save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)


def write_apple_layout(folder):
    """CLIP's layout with a tokenizer and without a word on images."""
    text = TOWER | {"vocab_size": 100, "max_position_embeddings": 8, "eos_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config=TOWER | {"image_size": 16, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)


def write_clip(folder):
    write_apple_layout(folder)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    CLIPProcessor(image_processor, make_tiny_tokenizer()).save_pretrained(folder)


def write_converted(folder):
    write_apple_layout(folder / "release")
    convert(folder / "release", output_dir=folder)


KINDS = {
    "clip": write_clip,
    "siglip": write_siglip,
    "siglip2": write_siglip2,
    "mofi": write_mofi,
    "apple, converted": write_converted,
}
