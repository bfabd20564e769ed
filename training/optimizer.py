"""The optimiser: how a recipe makes it, its learning rates, and its state from a last.pt."""
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.checkpoint import is_plain

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def make_optimizer(model: nn.Module, lr: float) -> Optimizer:
    """The recipe's optimiser over the model's groups of parameters; each remembers its first learning rate."""
    groups = [{**group, "initial_lr": group["lr"]} for group in model.parameter_groups(lr)]
    if model.recipe.optimizer not in OPTIMIZERS:
        raise ValueError(f"the recipe's optimizer must be one of {', '.join(OPTIMIZERS)}, got {model.recipe.optimizer}")
    fused = next(model.parameters()).device.type != "mps"
    return OPTIMIZERS[model.recipe.optimizer](groups, lr=lr, fused=fused, **model.recipe.optimizer_options)


def set_rates(optimizer: Optimizer, factor: float, warmup_factor: float = 1.0) -> None:
    """Set the learning rates of the next step.

    Args:
        optimizer: of `make_optimizer`; its groups know their initial rates.
        factor: multiplies the initial rates of groups that are "scheduled".
        warmup_factor: multiplies all initial rates.
    """
    for group in optimizer.param_groups:
        if "initial_lr" in group:  # an earlier version's lack it
            group["lr"] = group["initial_lr"] * warmup_factor * (factor if group.get("scheduled") else 1)


def load_optimizer(optimizer: Optimizer, stored: dict, source: Path) -> None:
    """Load an optimiser's state.

    Raises:
        ValueError: it is not that of these parameters; fused optimisers would write outside their memory.
    """
    check_groups(stored.get("param_groups"), optimizer.state_dict()["param_groups"], source)
    try:
        optimizer.load_state_dict(stored)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"the optimiser's state in {source} cannot be read: {error!r}") from error
    wrong = [name for p, state in optimizer.state.items()
             for name, value in (state.items() if isinstance(state, dict) else [(str(state), state)])
             if not isinstance(value, Tensor) or value.shape != (() if name == "step" else p.shape)
             or not value.is_floating_point()]
    if wrong:
        raise ValueError(f"the optimiser's state in {source} does not fit the network: {len(wrong)} entries, the first "
                         f"{wrong[0]}")
    for p, state in optimizer.state.items():
        for name in state.keys() - {"step"}:  # laid out in memory as the parameter is: fused optimisers rely on it
            state[name] = torch.empty_like(p, dtype=state[name].dtype).copy_(state[name])


def check_groups(stored, fresh: list[dict], source: Path) -> None:
    """Raise a ValueError if an optimiser's groups of parameters are not this run's.

    Their rates may differ, and another version of PyTorch may have more or fewer options.
    """
    if not isinstance(stored, list) or len(stored) != len(fresh) or not all(map(is_plain, stored)):
        raise ValueError(f"the optimiser's state in {source} cannot be read: it has no {len(fresh)} groups of "
                         "parameters")
    for group, like in zip(stored, fresh):
        other = [name for name in like if name in group and name != "lr" and group[name] != like[name]]
        if other or not isinstance(group.get("lr"), float):
            raise ValueError(f"the optimiser's state in {source} is not this run's: {', '.join(other) or 'lr'} of a "
                             "group of parameters differ")
