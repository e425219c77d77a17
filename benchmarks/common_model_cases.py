"""transformers' common model tests on MOFI's classes; `benchmarks.common_model_tests` fetches and runs them.

What is left out is what transformers' own tests of CLIP leave out, for the same reasons.
"""

import unittest

import torch
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

from modeling_mofi import (
    MofiConfig,
    MofiModel,
    MofiTextModel,
    MofiTextModelWithProjection,
    MofiVisionModel,
    MofiVisionModelWithProjection,
)


TOWER = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**TOWER, "vocab_size": 99, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 98}


class Inputs:
    """What the common tests ask of each model for a configuration and inputs."""

    is_training = False
    batch_size, seq_length = 3, 7
    num_hidden_layers = TOWER["num_hidden_layers"]  # Of both towers.

    def __init__(self, *, has_images: bool, has_texts: bool):
        self.has_images, self.has_texts = has_images, has_texts

    def get_config(self) -> MofiConfig:
        vision = {**TOWER, "image_size": 30, "patch_size": 10, "num_channels": 3}
        return MofiConfig(vision_config=vision, text_config={**TEXT, "pad_token_id": 1}, projection_dim=16)

    def prepare_config_and_inputs_for_common(self) -> tuple[MofiConfig, dict[str, torch.Tensor]]:
        inputs: dict[str, torch.Tensor] = {}
        if self.has_texts:
            input_ids = ids_tensor([self.batch_size, self.seq_length], 98)
            input_ids[:, -1] = 98
            inputs |= {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if self.has_images:
            inputs["pixel_values"] = floats_tensor([self.batch_size, 3, 30, 30])
        return self.get_config(), inputs


class MofiTest(ModelTesterMixin):
    """Settings of all models, as for CLIP's."""

    test_resize_embeddings = False
    test_torch_exportable = False
    has_attentions = False
    additional_model_inputs = ["pixel_values"]

    @unittest.skip("As for CLIP: states and gradients are those of two towers, tested with each of them.")
    def test_hidden_states_output(self):
        pass

    test_retain_grad_hidden_states_attentions = test_inputs_embeds = test_hidden_states_output


class MofiModelTest(MofiTest, unittest.TestCase):
    all_model_classes = (MofiModel,)

    def setUp(self):
        self.model_tester = Inputs(has_images=True, has_texts=True)


class MofiVisionTest(MofiTest, unittest.TestCase):
    all_model_classes = (MofiVisionModel, MofiVisionModelWithProjection)

    def setUp(self):
        self.model_tester = Inputs(has_images=True, has_texts=False)

    @unittest.skip("As for CLIP: patches are embedded by a convolution.")
    def test_model_get_set_embeddings(self):
        pass


class MofiTextTest(MofiTest, unittest.TestCase):
    all_model_classes = (MofiTextModel, MofiTextModelWithProjection)

    def setUp(self):
        self.model_tester = Inputs(has_images=False, has_texts=True)
