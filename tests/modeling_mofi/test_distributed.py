"""One to four processes over gloo at the same global batch: same losses, gradients, rows and moments."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_processes
from tiny import make_tiny_config
from torch.nn.parallel import DistributedDataParallel

from modeling_mofi import MofiForPreTraining, entity_head
from modeling_mofi.distributed_mofi import process_place
from modeling_mofi.training.checkpoint import load_optimizer, save_optimizer
from modeling_mofi.training.gradient_cache import cached_backward, split_batch
from modeling_mofi.training.optimizer import TowersAndHeadOptimizer


NUM_ROWS = 12
NUM_ENTITIES = 50
# Rows of the global batch on each process; the last are those of an epoch's last, uneven batch.
SHARES = {1: [[12]], 2: [[6, 6], [9, 3]], 3: [[4, 4, 4], [5, 6, 1]], 4: [[3, 3, 3, 3], [5, 4, 2, 1]]}


def make_model(config, **head_settings):
    torch.manual_seed(0)
    config.num_entities = NUM_ENTITIES
    return MofiForPreTraining(config, num_sampled_entities=20, scale=8.0, **head_settings)


def global_batch(config):
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(4, config.text_config.vocab_size, (NUM_ROWS, 8), generator=generator)
    input_ids[:, -1] = config.text_config.eos_token_id
    labels = torch.randint(0, 8, (NUM_ROWS,), generator=generator)  # Few, so that some images share theirs.
    labels[3] = -1
    pixels = torch.randn(NUM_ROWS, 3, 16, 16, generator=generator)
    return {"pixel_values": pixels, "input_ids": input_ids, "entity_labels": labels}


def own_share(batch, counts):
    rank = process_place()[0]
    start = sum(counts[:rank])
    return {name: values[start : start + counts[rank]] for name, values in batch.items()}


def losses_and_gradients(config, counts):
    """Losses of the global batch and the gradient of every parameter; rows of the head that this process owns."""
    model = make_model(config)
    wrapped = DistributedDataParallel(model) if len(counts) > 1 else model
    outputs = wrapped(**own_share(global_batch(config), counts))
    outputs.loss.backward()
    losses = torch.stack([outputs.contrastive_loss, outputs.entity_loss]).detach()
    if len(counts) > 1:
        torch.distributed.all_reduce(losses)
    gradients = {name: parameter.grad.to_dense().numpy() for name, parameter in model.named_parameters()}
    return (losses / len(counts)).tolist(), gradients


def cached_losses_and_gradients(config, counts, *, chunk_size, seed=0):
    """As `losses_and_gradients`, with the towers run by chunks, and with dropout if the configuration has it."""
    model = make_model(config).train()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if len(counts) > 1 else model
    batch, found = own_share(global_batch(config), counts), []
    labels = batch.pop("entity_labels")

    def compute_loss(embeds):
        outputs = model.losses(
            embeds.image_embeds, embeds.text_embeds, logit_scale=embeds.logit_scale, entity_labels=labels
        )
        found.append(torch.stack([outputs.contrastive_loss, outputs.entity_loss]).detach())
        return outputs.loss

    no_sync = wrapped.no_sync if len(counts) > 1 else nullcontext
    torch.manual_seed(seed)
    cached_backward(
        wrapped,
        batch,
        chunk_size=chunk_size,
        compute_loss=compute_loss,
        backward=torch.Tensor.backward,
        no_sync=no_sync,
    )
    if len(counts) > 1:
        torch.distributed.all_reduce(found[0])
    gradients = {name: parameter.grad.to_dense().numpy() for name, parameter in model.named_parameters()}
    return (found[0] / len(counts)).tolist(), gradients


def compare_losses(config):
    """Results for each share of rows, for the first in chunks of the batch, and for the last in chunks of logits."""
    shares = SHARES[process_place()[1]]
    results = [losses_and_gradients(config, counts) for counts in shares]
    results.append(cached_losses_and_gradients(config, shares[0], chunk_size=4))
    # Processes sample different numbers of rows, and must still reduce the same images at the same time.
    entity_head.MAX_LOGITS = 60
    return [*results, losses_and_gradients(config, shares[-1])]


@pytest.fixture(scope="module")
def results():
    """Losses and gradients for each number of processes: `[processes][share][rank]`."""
    found = {}
    for num_processes in SHARES:
        by_rank = run_processes(compare_losses, num_processes, make_tiny_config())
        found[num_processes] = list(zip(*by_rank, strict=True))
    return found


KINDS = ("even", "uneven", "cached", "logits in chunks")
CASES = [*((num_processes, share) for num_processes in (2, 3, 4) for share in range(4)), (1, 1), (1, 2)]
NAMES = [f"{num_processes}-{KINDS[share + (num_processes == 1)]}" for num_processes, share in CASES]


@pytest.mark.parametrize(("num_processes", "share"), CASES, ids=NAMES)
def test_processes_give_the_losses_of_one(results, num_processes, share):
    expected, _ = results[1][0][0]
    for losses, _ in results[num_processes][share]:
        assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("num_processes", "share"), CASES, ids=NAMES)
def test_processes_give_the_gradient_of_one(results, num_processes, share):
    _, expected = results[1][0][0]
    by_rank = [gradients for _, gradients in results[num_processes][share]]
    for name, gradient in expected.items():
        gradient = torch.from_numpy(gradient)
        if name == "entity_head.weight":
            found = [torch.cat([torch.from_numpy(gradients[name]) for gradients in by_rank])]
        else:
            found = [torch.from_numpy(gradients[name]) for gradients in by_rank]
        assert all(close(other, gradient) for other in found), name


def close(gradient, expected, *, rounding=1e-7):
    # Weights that softmax makes irrelevant, such as the keys' bias, have a gradient of rounding errors.
    return (gradient - expected).norm() <= 1e-5 * expected.norm() + rounding


def sigmoid_losses_and_gradients(config, same_entity):
    """As `losses_and_gradients` of SigLIP's loss, in whole batches and in chunks of four; the towers' alone."""
    config.contrast = "sigmoid"
    counts, found = SHARES[process_place()[1]][-1], []
    for chunk_size in (None, 4):
        model = make_model(config).train()
        model.same_entity = same_entity
        wrapped = DistributedDataParallel(model, find_unused_parameters=True) if len(counts) > 1 else model
        batch = own_share(global_batch(config), counts)
        labels = batch.pop("entity_labels")

        def compute_loss(embeds, model=model, labels=labels):
            scalars = {"logit_scale": embeds.logit_scale, "logit_bias": embeds.logit_bias}
            return model.losses(embeds.image_embeds, embeds.text_embeds, **scalars, entity_labels=labels).loss

        if chunk_size is None:
            wrapped(**batch, entity_labels=labels).loss.backward()
        else:
            no_sync = wrapped.no_sync if len(counts) > 1 else nullcontext
            settings = {"chunk_size": chunk_size, "compute_loss": compute_loss, "no_sync": no_sync}
            cached_backward(wrapped, batch, backward=lambda loss: loss.backward(), **settings)
        found.append({name: parameter.grad.numpy() for name, parameter in model.mofi.named_parameters()})
    return found


@pytest.mark.parametrize("same_entity", ["left_out", "positive"])
def test_processes_give_the_gradient_of_one_by_sigmoid_too(same_entity):
    ((expected, cached),) = run_processes(sigmoid_losses_and_gradients, 1, make_tiny_config(), same_entity)
    assert np.abs(expected["logit_bias"]).max() > 1e-3
    for found in (cached, *sum(run_processes(sigmoid_losses_and_gradients, 2, make_tiny_config(), same_entity), [])):
        for name, gradient in expected.items():
            assert close(torch.from_numpy(found[name]), torch.from_numpy(gradient), rounding=1e-6), name


def test_gradient_caching_repeats_dropout():
    config = make_tiny_config()
    config.vision_config.attention_dropout = config.text_config.attention_dropout = 0.5
    torch.manual_seed(3)
    batch, model = global_batch(config), make_model(config).train()
    labels = batch.pop("entity_labels")
    torch.manual_seed(3)
    outputs = [model(**chunk, return_loss=False) for chunk in split_batch(batch, 4)]  # Each with its own dropout.
    embeds = [torch.cat([output[name] for output in outputs]) for name in ("image_embeds", "text_embeds")]
    model.losses(*embeds, logit_scale=outputs[0].logit_scale, entity_labels=labels).loss.backward()
    _, gradients = cached_losses_and_gradients(config, [12], chunk_size=4, seed=3)
    for name, parameter in model.named_parameters():
        assert close(torch.from_numpy(gradients[name]), parameter.grad.to_dense()), name


def train_and_save(config, folder):
    """Two steps with the real optimizers, then a save by all processes."""
    model = make_model(config)
    optimizer = make_optimizer(model)
    batch = own_share(global_batch(config), SHARES[process_place()[1]][0])
    for model.entity_head.sampling_step in range(2):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder, is_main_process=process_place()[0] == 0)
    save_optimizer(folder, optimizer, model.entity_head, is_main=process_place()[0] == 0)
    return rows_and_moments(model, optimizer)


def make_optimizer(model):
    head = torch.optim.SparseAdam(model.entity_head.parameters(), lr=0.1)
    return TowersAndHeadOptimizer(torch.optim.AdamW(model.mofi.parameters(), lr=1e-3), head)


def rows_and_moments(model, optimizer):
    weight = model.entity_head.weight
    state = optimizer.parts["head"].state[weight]
    tensors = {"weight": weight.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
    return state["step"], {name: tensor.numpy() for name, tensor in tensors.items()}


def load_and_return(config, folder):
    model = make_model(config, seed=5)
    model.load_head(folder)
    optimizer = make_optimizer(model)
    load_optimizer(folder, optimizer, model.entity_head)
    return rows_and_moments(model, optimizer)


def joined(by_rank, name):
    return torch.cat([torch.from_numpy(tensors[name]) for _, tensors in by_rank])


def test_a_head_saved_on_two_processes_loads_on_three_and_on_one(tmp_path):
    saved = run_processes(train_and_save, 2, make_tiny_config(), str(tmp_path))
    assert len(list(Path(tmp_path).glob("entity_head-*-of-00002.safetensors"))) == 2
    for num_processes in (1, 3):
        loaded = run_processes(load_and_return, num_processes, make_tiny_config(), str(tmp_path))
        assert [step for step, _ in loaded] == [2] * num_processes
        for name in ("weight", "exp_avg", "exp_avg_sq"):
            assert torch.equal(joined(loaded, name), joined(saved, name))
