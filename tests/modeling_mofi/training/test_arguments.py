"""Settings that are refused."""

import pytest

from modeling_mofi.training.arguments import MofiTrainingArguments


def make(tmp_path, **settings):
    return MofiTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "clip"}, "recipe is 'clip'; it must be one of multi-task, supervised, contrastive"),
        ({"nonfinite_policy": "hope"}, "nonfinite_policy is 'hope'; it must be one of stop, skip"),
        ({"entity_loss_weight": 1.5}, r"entity_loss_weight is 1.5; it must be in \[0, 1\]"),
        ({"text_proportions": "{alt"}, "text_proportions is '{alt'; it must be a JSON mapping"),
        ({"frozen_parts": ["head"]}, "frozen_parts has head; it may have image_tower, text_tower, entity_head"),
        ({"gradient_cache_size": 0}, "gradient_cache_size is 0; it must be positive"),
        ({"patch_dropout_schedule": {0: 1.0}}, r"patch_dropout_schedule is .* must be in \[0, 1\)"),
        ({"image_size_schedule": {0.5: 112}}, "image_size_schedule .* first value must begin at 0"),
        ({"image_size_schedule": {"start": 112}}, "image_size_schedule .* must map shares of the steps to numbers"),
        ({"entity_weighting": "prior"}, "entity_weighting is 'prior'; it must be one of none, similarity"),
        ({"layer_decay": 0}, r"layer_decay is 0; it must be in \(0, 1\]"),
        ({"ema_decay": 1.0}, r"ema_decay is 1.0; it must be in \(0, 1\), or null"),
        ({"remove_unused_columns": True}, "remove_unused_columns must stay false"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **settings)


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(MofiTrainingArguments, "n_gpu", 8)
    with pytest.raises(ValueError, match="One process has 8 GPUs.* with accelerate launch or torchrun"):
        make(tmp_path)


def test_a_schedule_may_come_from_yaml_or_from_a_flag(tmp_path):
    assert make(tmp_path, image_size_schedule={0: 112, 0.8: 224}).image_size_schedule == {0.0: 112.0, 0.8: 224.0}
    assert make(tmp_path, image_size_schedule='{"0": 112}').image_size_schedule == {0.0: 112.0}


def test_compiling_is_left_to_the_towers(tmp_path):
    args = make(tmp_path, torch_compile_backend="aot_eager")
    assert args.tower_compilation == {"backend": "aot_eager", "mode": None}
    assert not args.torch_compile
    assert make(tmp_path, torch_compile=True).tower_compilation == {"backend": "inductor", "mode": None}
    assert make(tmp_path).tower_compilation is None


def test_what_accelerate_is_set_to_is_refused_or_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="fp16 is not supported, whether it comes from .* or from accelerate's"):
        make(tmp_path)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert make(tmp_path).bf16
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert not make(tmp_path).bf16
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="DeepSpeed is not supported"):
        make(tmp_path)


@pytest.mark.parametrize("name", ["dispatch_batches", "split_batches"])
def test_rows_in_an_order_of_accelerates_own_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"accelerator_config has {name}"):
        make(tmp_path, accelerator_config={name: True})
