"""The entity head in one process."""

from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F

from modeling_mofi.entity_head import MofiEntityHead


def unit_rows(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def train_step(head, optimizer, *, labels, step):
    head.sampling_step = step
    head(unit_rows(len(labels), 8, seed=step), torch.tensor(labels)).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_full_head_is_a_cosine_softmax_with_a_margin():
    head = MofiEntityHead(10, 8, scale=16.0, margin=0.2)
    embeds, labels = unit_rows(3, 8), torch.tensor([9, 0, 4])
    cosines = embeds @ F.normalize(head.weight, dim=-1).t()
    expected = F.cross_entropy(16.0 * (cosines - 0.2 * F.one_hot(labels, 10)), labels)
    torch.testing.assert_close(head(embeds, labels), expected)


def test_images_without_entity_count_for_nothing():
    head = MofiEntityHead(10, 8)
    embeds = unit_rows(4, 8)
    loss = head(embeds, torch.tensor([3, -1, 5, -1]))
    torch.testing.assert_close(loss, head(embeds[[0, 2]], torch.tensor([3, 5])))


def test_images_count_by_their_weights():
    head = MofiEntityHead(10, 8)
    embeds, labels = unit_rows(4, 8), torch.tensor([3, -1, 5, 7])
    first, third = (head(embeds[[place]], labels[[place]]) for place in (0, 2))
    loss = head(embeds, labels, torch.tensor([0.1, 0.9, 0.3, 0.0]))
    torch.testing.assert_close(loss, (0.1 * first + 0.3 * third) / 0.4)
    torch.testing.assert_close(head(embeds, labels, torch.full((4,), 0.2)), head(embeds, labels))
    assert head(embeds, labels, torch.zeros(4)).item() == 0


def test_a_batch_without_any_entity_has_loss_zero():
    head = MofiEntityHead(10, 8)
    loss = head(unit_rows(2, 8).requires_grad_(), torch.tensor([-1, -1]))
    loss.backward()
    assert loss.item() == 0
    assert not head.weight.grad.to_dense().any()


def test_label_of_another_build_is_refused():
    head = MofiEntityHead(10, 8)
    with pytest.raises(ValueError, match=r"entity_label 10 is outside \[0, 10\).*different builds"):
        head(unit_rows(2, 8), torch.tensor([3, 10]))


def test_entities_of_the_batch_are_always_sampled():
    head = MofiEntityHead(1000, 8, num_sampled_entities=5)
    labels = torch.tensor([0, 999, 500, 500, 123])
    for step in range(20):
        head.sampling_step = step
        index, columns = head._select_rows(labels)
        assert index[columns].tolist() == labels.tolist()


def test_sampled_entities_are_distinct_and_a_function_of_seed_and_step():
    def draw(seed, step):
        head = MofiEntityHead(1000, 8, num_sampled_entities=100, seed=seed)
        head.sampling_step = step
        return head.sampled_entities().tolist()

    assert len(set(draw(0, 7))) == 100
    assert draw(0, 7) == draw(0, 7)
    assert draw(0, 7) != draw(0, 8)
    assert draw(0, 7) != draw(1, 7)


def test_every_entity_is_sampled_equally_often():
    head = MofiEntityHead(30, 8, num_sampled_entities=10)
    counts = torch.zeros(30)
    for head.sampling_step in range(1500):
        counts[head.sampled_entities()] += 1
    # 500 expected; the standard deviation of a count is 18.
    assert (counts - 500).abs().max() < 90


def test_sampled_loss_uses_the_sampled_and_the_batchs_entities_only():
    head = MofiEntityHead(50, 8, num_sampled_entities=6, scale=8.0, margin=0.1)
    embeds, labels = unit_rows(3, 8), torch.tensor([1, 44, 1])
    classes = sorted({*head.sampled_entities().tolist(), 1, 44})
    cosines = embeds @ F.normalize(head.weight[classes], dim=-1).t()
    targets = torch.tensor([classes.index(label) for label in labels.tolist()])
    expected = F.cross_entropy(8.0 * (cosines - 0.1 * F.one_hot(targets, len(classes))), targets)
    torch.testing.assert_close(head(embeds, labels), expected)


def test_rows_that_were_not_sampled_stay_bit_unchanged_with_their_moments():
    head = MofiEntityHead(200, 8, num_sampled_entities=20, scale=4.0)
    optimizer = torch.optim.SparseAdam(head.parameters(), lr=0.1)
    train_step(head, optimizer, labels=[3, 3, 150], step=0)
    before = (
        head.weight.detach().clone(),
        *(optimizer.state[head.weight][name].clone() for name in ("exp_avg", "exp_avg_sq")),
    )
    train_step(head, optimizer, labels=[7, 199], step=1)
    after = head.weight.detach(), *(optimizer.state[head.weight][name] for name in ("exp_avg", "exp_avg_sq"))
    sampled = torch.zeros(200, dtype=torch.bool)
    head.sampling_step = 1
    sampled[[7, 199, *head.sampled_entities().tolist()]] = True
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[~sampled], new[~sampled])
        assert (old[sampled] != new[sampled]).any(dim=1).all()


def test_initial_rows_are_unit_vectors_that_depend_on_the_seed_only():
    first, second, other = (MofiEntityHead(5000, 4, seed=seed).weight for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5000))


def test_memory_plan_states_rows_and_their_megabytes():
    plan = MofiEntityHead(8192, 128, num_sampled_entities=1000).memory_plan(batch_size=24)
    assert "8,192 entities, 8,192 rows x 128 on this process; 12.0 MB rows and moments" in plan
    assert "over 1,025 rows" in plan


@pytest.mark.parametrize(("num_sampled_entities", "batch_size"), [(2_000, 64), (None, 64), (500, 512)])
def test_a_step_takes_the_memory_that_was_planned(num_sampled_entities, batch_size):
    head = MofiEntityHead(20_000, 32, num_sampled_entities=num_sampled_entities)
    optimizer = torch.optim.SparseAdam(head.parameters())
    embeds, labels = unit_rows(batch_size, 32).requires_grad_(), torch.arange(batch_size) * 7

    def step():
        head(embeds, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        embeds.grad = None

    step()  # Makes the moments.
    held, planned = head.planned_bytes(batch_size=batch_size)
    state = optimizer.state[head.weight]
    assert held == sum(tensor.nbytes for tensor in (head.weight, state["exp_avg"], state["exp_avg_sq"]))
    assert 0.65 * planned <= peak_bytes(step) <= 1.1 * planned


def peak_bytes(call):
    """Most bytes that a call holds of those it allocates itself, by PyTorch's own account."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]  # Negative where freed.
    return max(accumulate(sizes))


def test_sampling_nothing_is_refused():
    with pytest.raises(ValueError, match="num_sampled_entities is 0; it must be positive"):
        MofiEntityHead(10, 8, num_sampled_entities=0)


def test_a_step_draws_once_and_another_step_anew(monkeypatch):
    head = MofiEntityHead(50, 8, num_sampled_entities=6)
    drawn, draw = [], MofiEntityHead.sampled_entities
    monkeypatch.setattr(
        MofiEntityHead, "sampled_entities", lambda head: drawn.append(head.sampling_step) or draw(head)
    )
    for head.sampling_step in (0, 0, 3, 3, 0):
        assert head.own_sample().tolist() == draw(head).tolist()
        head(unit_rows(3, 8), torch.tensor([1, 44, 1]))
    assert drawn == [0, 3, 0]
