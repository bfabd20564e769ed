import pytest
import torch
from conftest import TINY
from torch import nn

from baselines.tased_net import TASEDNet
from loss import Recipe
from model import RecSalNet
from training.optimizer import make_optimizer, set_rates


def test_a_warm_up_raises_all_rates_linearly_to_their_full_values():
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [first], "lr": 1.0, "initial_lr": 1.0}, {"params": [second], "lr": 2.0, "initial_lr": 2.0, "scheduled": True}]
    optimizer, recipe, found = torch.optim.SGD(groups, lr=1), Recipe(warmup=4), []
    for number in range(6):
        set_rates(optimizer, 0.5, recipe.warmup_factor(number))
        found.append(tuple(group["lr"] for group in optimizer.param_groups))
    assert found == [(0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (1, 1), (1, 1), (1, 1)]
    assert Recipe().warmup_factor(0) == 1


def test_rates_fall_at_milestones_where_they_are_scheduled():
    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.001, "initial_lr": 0.001, "scheduled": False}, {"params": [second], "lr": 0.1, "initial_lr": 0.1, "scheduled": True}], lr=1)
    found = {}
    for steps in (0, 749, 750, 949, 950, 5000):
        set_rates(optimizer, 0.1 ** Recipe(milestones=(750, 950)).decays(steps, epochs=30))
        found[steps] = [group["lr"] for group in optimizer.param_groups]
    assert {steps: rate for steps, (_, rate) in found.items()} == pytest.approx({0: 0.1, 749: 0.1, 750: 0.01, 949: 0.01, 950: 0.001, 5000: 0.001})
    assert all(rate == 0.001 for rate, _ in found.values())


def test_rates_fall_after_whole_numbers_of_epochs_where_a_recipe_says_so():
    recipe = Recipe(milestones=(10,), gamma=0.1, decay_epochs=20)
    assert [recipe.decays(taken, epochs) for taken, epochs in ((0, 0), (9, 19), (9, 20), (10, 20), (10, 59))] == [0, 0, 1, 2, 3]


def test_optimisers_are_the_recipes():
    model = TASEDNet()
    optimizer = make_optimizer(model, 0.1)
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"] == 0.9
    assert [(group["lr"], group["initial_lr"], group["weight_decay"], group["scheduled"]) for group in optimizer.param_groups] == [(0.001, 0.001, 2e-7, False), (0.1, 0.1, 2e-7, True)]
    assert isinstance(make_optimizer(RecSalNet(**TINY), 1e-5), torch.optim.Adam)
