"""Selection and rescaling as pure tensors, against a plain-Python reference."""

import pytest
import torch
from reference import reference_plan

from scr import ConfigError
from scr.redistribution import RedistributionPlan, plan_redistribution, redistribute


def as_lists(plan: RedistributionPlan) -> tuple[list[int], list[int], list[int]]:
    return plan.sources.tolist(), plan.neighbors.tolist(), plan.owners.tolist()


@pytest.mark.parametrize("selection", ["top_k", "greedy"])
@pytest.mark.parametrize(("connectivity", "radius"), [(8, 1), (4, 1), (8, 2), (4, 2), (4, 3)])
@pytest.mark.parametrize("include_border", [False, True])
def test_plans_equal_the_reference(selection, connectivity, radius, include_border):
    generator = torch.Generator().manual_seed(connectivity * 10 + radius)
    for trial, (height, width, count) in enumerate(
        [(6, 6, 4), (5, 9, 40), (3, 3, 1), (12, 7, 12), (1, 8, 3), (2, 2, 9)]
    ):
        attention = torch.rand(height, width, generator=generator)
        if trial % 2:  # ties: only a few different values
            attention = (attention * 4).round() / 4
        options = dict(
            num_sources=count,
            connectivity=connectivity,
            radius=radius,
            include_border=include_border,
            selection=selection,
        )
        assert as_lists(plan_redistribution(attention, **options)) == reference_plan([attention.tolist()], **options)


@pytest.mark.parametrize("selection", ["top_k", "greedy"])
def test_several_grids_share_the_sources_and_keep_their_neighborhoods(selection):
    generator = torch.Generator().manual_seed(3)
    grids = [
        torch.rand(4, 4, generator=generator),
        torch.rand(2, 2, generator=generator),
        torch.rand(5, 3, generator=generator),
    ]
    plan = plan_redistribution(grids, num_sources=5, selection=selection)
    assert as_lists(plan) == reference_plan([grid.tolist() for grid in grids], num_sources=5, selection=selection)
    assert not set(plan.sources.tolist()) & set(range(16, 20)), "a 2 × 2 grid has no eligible patch"


def test_ties_go_to_the_lower_index_and_sources_claim_in_order():
    attention = torch.zeros(5, 5)
    attention[2, 1] = attention[2, 3] = 1.0
    plan = plan_redistribution(attention, num_sources=2)
    assert plan.sources.tolist() == [11, 13]
    owner = dict(zip(plan.neighbors.tolist(), plan.owners.tolist(), strict=True))
    assert owner[12] == 0, "the patch between both belongs to the first"
    assert not set(plan.sources.tolist()) & set(plan.neighbors.tolist())


def test_a_grid_without_eligible_patches_is_a_no_op():
    hidden = torch.randn(4, 3)
    plan = plan_redistribution(torch.rand(2, 2))
    assert as_lists(plan) == ([], [], [])
    assert torch.equal(redistribute(hidden, plan), hidden)


def test_redistribute_uses_the_old_source_state():
    hidden = torch.arange(25.0)[:, None].repeat(1, 2) + 1
    attention = torch.zeros(5, 5)
    attention[2, 2] = 1
    new = redistribute(hidden, plan_redistribution(attention, num_sources=1), scale=1.5)
    assert torch.equal(new[12], hidden[12] / 1.5)
    for neighbor in (6, 7, 8, 11, 13, 16, 17, 18):
        assert torch.equal(new[neighbor], hidden[neighbor] + 0.5 * hidden[12])
    untouched = [0, 1, 2, 3, 4, 5, 9, 10, 14, 15, 19, 20, 21, 22, 23, 24]
    assert torch.equal(new[untouched], hidden[untouched])


def test_scale_one_changes_nothing_and_gradients_flow():
    hidden = torch.randn(36, 8, requires_grad=True)
    plan = plan_redistribution(torch.rand(6, 6), num_sources=3)
    assert torch.equal(redistribute(hidden, plan, 1.0), hidden)
    redistribute(hidden, plan, 1.2).sum().backward()
    given = torch.bincount(plan.owners, minlength=3)
    assert torch.allclose(hidden.grad[plan.sources[0]], torch.tensor(1 / 1.2 + 0.2 * given[0].item()))


def test_small_differences_of_doubles_and_arrays_count():
    attention = torch.full((6, 6), 0.5, dtype=torch.float64)
    attention[3, 3] += 1e-10
    for one in (attention, attention.numpy(), [attention.numpy()]):
        assert plan_redistribution(one, num_sources=1).sources.tolist() == [21]


@pytest.mark.parametrize("scale", [0.5, float("nan"), float("inf"), "1.1"])
def test_a_scale_below_one_is_refused(scale):
    with pytest.raises(ConfigError, match="scale"):
        redistribute(torch.randn(36, 2), plan_redistribution(torch.rand(6, 6)), scale)


@pytest.mark.parametrize(
    ("attention", "options", "word"),
    [
        (torch.rand(4), {}, "patch grid"),
        ([], {}, "patch grid"),
        (torch.full((4, 4), torch.nan), {}, "not finite"),
        (torch.rand(4, 4), {"num_sources": 0}, "num_sources"),
        (torch.rand(4, 4), {"connectivity": 6}, "connectivity"),
        (torch.rand(4, 4), {"radius": 0}, "radius"),
        (torch.rand(4, 4), {"selection": "best"}, "selection"),
    ],
)
def test_bad_input_is_refused_by_name(attention, options, word):
    with pytest.raises(ConfigError, match=word):
        plan_redistribution(attention, **options)
