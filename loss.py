"""The six measures of saliency, the training objective built from the same functions, and the recipe that says with
which objective a network is trained, and how.

Every measure takes a batch and returns one value a sample, NaN where it is undefined: NSS and both AUCs of a frame
without fixations; AUC-Judd where every pixel is fixated; CC, NSS, SIM and shuffled AUC of a constant saliency map; CC,
SIM and KL of a constant density map; all of them for a map that is not finite.
Computed in float64, on the device of the saliency map. Fixations may stay on the CPU; then nothing waits for a GPU.
Source: the definitions of the DHF1K benchmark's evaluation code (MIT Saliency Benchmark; Judd, Bylinskii).
"""
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 2.2204e-16  # the benchmark's; another one shifts KL


def cc(saliency: Tensor, density: Tensor) -> Tensor:
    """Linear correlation coefficient, in [-1, 1], higher is better.

    Args:
        saliency: (B, H, W), any range.
        density: (B, H, W), any range.

    Returns:
        (B,); NaN where either map is constant.
    """
    check(saliency, density)
    p, d = accurate(saliency), accurate(density)
    covariance = (p * (d - d.mean(1, keepdim=True))).sum(1) / (p.shape[1] - 1)
    value = covariance / (p.var(1) * d.var(1)).sqrt()
    return defined_where(value, ~is_constant(saliency) & ~is_constant(density))


def similarity(saliency: Tensor, density: Tensor) -> Tensor:
    """SIM, the overlap of the two maps as histograms, in [0, 1], higher is better.

    Args:
        saliency: (B, H, W), any range; min-max normalised here, as the benchmark does.
        density: (B, H, W), likewise.

    Returns:
        (B,); NaN where either map is constant.
    """
    check(saliency, density)
    p, d = (above_minimum(x) for x in (saliency, density))  # dividing by the maximum too would cancel out
    value = torch.minimum(p / p.sum(1, keepdim=True), d / d.sum(1, keepdim=True)).sum(1)
    return defined_where(value, ~is_constant(saliency) & ~is_constant(density))


def kldiv(saliency: Tensor, density: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the density from the saliency map, 0 or more, lower is better.

    Args:
        saliency: (B, H, W), 0 or more; divided by its sum (an all-zero map stays as it is).
        density: (B, H, W), 0 or more; divided by its sum.

    Returns:
        (B,); NaN where the density map is constant.
    """
    check(saliency, density)
    p, d = accurate(saliency), accurate(density)
    total = p.sum(1, keepdim=True)
    p = p / torch.where(total == 0, torch.ones_like(total), total)
    d = d / d.sum(1, keepdim=True)
    value = (d * torch.log(EPS + d / (p + EPS))).sum(1)
    return defined_where(value, ~is_constant(density))


def nss(saliency: Tensor, fixations: Tensor) -> Tensor:
    """Normalised scanpath saliency: the mean of the standardised map at the fixations, higher is better.

    Args:
        saliency: (B, H, W), any range; standardised with the N - 1 standard deviation.
        fixations: (B, H, W) bool.

    Returns:
        (B,), in standard deviations; NaN without fixations or where the map is constant.
    """
    check(saliency, fixations)
    p = accurate(saliency)
    values, inside = fixated_values(p, fixations)
    n = inside.sum(1)
    value = ((values * inside).sum(1) / n - p.mean(1)) / p.std(1)
    return defined_where(value, (n > 0) & ~is_constant(p))


def auc_judd(saliency: Tensor, fixations: Tensor, ties: str = "expected") -> Tensor:
    """AUC-Judd: thresholds at the fixated pixels' values, in [0, 1], higher is better.

    The i-th fixated value from above, i = 1 .. n, gives TP = i / n and FP = (pixels at or above it - i) / (N - n).
    This is not the rank (exact ROC) AUC, which lies about 0.02 lower on real maps.

    Args:
        saliency: (B, H, W), any range.
        fixations: (B, H, W) bool.
        ties: "expected" is the expectation, in closed form, over the noise that the benchmark adds to break ties;
            "none" breaks none.

    Returns:
        (B,); NaN without fixations, or where every pixel is fixated.
    """
    if ties not in ("expected", "none"):
        raise ValueError(f'ties must be "expected" or "none", got {ties!r}')
    check(saliency, fixations)
    p = accurate(saliency)
    values, inside = fixated_values(p, fixations)                       # (B, K)
    values = values.masked_fill(~inside, torch.inf).sort(dim=1).values  # ascending, the padding last
    inside, n = values.isfinite(), inside.sum(1)
    m = p.shape[1] - n                                                  # pixels that are not fixated
    area = (expected_area if ties == "expected" else plain_area)(values, inside, p, n, m)
    return defined_where(area, (n > 0) & (m > 0) & is_finite(p))


def plain_area(values: Tensor, inside: Tensor, p: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """The trapezoid rule through (0, 0), one point a fixated value, and (1, 1)."""
    rank = n[:, None] - torch.arange(values.shape[1], device=n.device)  # n .. 1 along ascending values
    fp = accurate_like(count_from(p, values)[0] - rank) / m[:, None]
    # In ascending order: (1, 1), (fp, n / n), .. (fp, 1 / n), (0, 0). The rule sums the mean TP of neighbours times
    # their distance in FP, which is the sum over all points of FP times half the difference of its neighbours' TP.
    # Half the difference is 1 / n, but 1 / (2 n) at the topmost-TP point, whose neighbour (1, 1) has TP 1 as well.
    fp = fp * inside
    return 1 - (fp.sum(1) - fp[:, 0] / 2) / n


def expected_area(values: Tensor, inside: Tensor, p: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """The expectation of `plain_area` over noise that puts tied pixels into a random order (closed form).

    With a fixated and b other pixels at a value, A others above it, and l the lowest fixated value:
    1 - sum a (A + b / 2) / (n M) + (A_l + b_l a_l / (a_l + 1)) / (2 n M).
    """
    pixels = count_from(p, values)  # at or above each fixated value, and above it
    fixated = [count - (~inside).sum(1, keepdim=True) for count in count_from(values, values)]
    others_from, above = (accurate_like(x - y) for x, y in zip(pixels, fixated))  # A + b, A
    a = accurate_like(fixated[0] - fixated[1])
    total = ((above + others_from) / 2 * inside).sum(1)
    lowest = above[:, 0] + (others_from - above)[:, 0] * a[:, 0] / (a[:, 0] + 1)
    return 1 - (total - lowest / 2) / (n * m)


def count_from(p: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """How many of `p`, (B, N), are at or above each of the ascending `values`, (B, K); and how many are above it.

    N searches in K values, and a histogram: several times faster than sorting N.
    """
    next_values = values.nextafter(torch.full_like(values, torch.inf))  # above a value is at or above the next number
    bounds, order = torch.cat([values, next_values], dim=1).sort(dim=1)
    passed = torch.searchsorted(bounds, p, right=True)                  # (B, N): bounds at or below each pixel
    histogram = passed.new_zeros(len(p), bounds.shape[1] + 1)
    histogram.scatter_add_(1, passed, passed.new_ones(1).expand_as(passed))
    reached = histogram.flip(1).cumsum(1).flip(1)[:, 1:]  # pixels that pass at least so many bounds
    return torch.empty_like(reached).scatter_(1, order, reached).chunk(2, dim=1)


def auc_shuffled(saliency: Tensor, fixations: Tensor, other_fixations: Tensor) -> Tensor:
    """Shuffled AUC (Borji): fixations against those of other frames, in [0, 1], higher is better.

    The benchmark averages 100 random draws from the other frames' fixations; this is the exact expectation of that
    average. Each share of drawn pixels has the share of all of them as its mean, and the area is linear in it.

    Args:
        saliency: (B, H, W), any range; min-max normalised here. Thresholds are 0, 0.1, .. 1.
        fixations: (B, H, W) bool.
        other_fixations: (B, H, W) bool, the union of other frames' fixations.

    Returns:
        (B,); NaN without fixations on either side or where the map is constant.
    """
    check(saliency, fixations)
    check(saliency, other_fixations)
    low, high = (extreme(accurate(saliency), dim=1, keepdim=True) for extreme in (torch.amin, torch.amax))
    thresholds = torch.arange(10, -1, -1, device=low.device, dtype=low.dtype) * 0.1
    shares, counts = zip(*(share_from(saliency, low, high, x, thresholds) for x in (fixations, other_fixations)))
    tp, fp = (F.pad(x, (1, 0)) for x in shares)  # (B, 12), from 0 to 1; (1, 1) is threshold 0
    area = ((fp[:, 1:] - fp[:, :-1]) * (tp[:, 1:] + tp[:, :-1]) / 2).sum(1)
    spread = (high - low)[:, 0]
    return defined_where(area, (counts[0] > 0) & (counts[1] > 0) & (spread > 0) & spread.isfinite())


def share_from(saliency: Tensor, low: Tensor, high: Tensor, fixations: Tensor,
               thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The share of fixated pixels whose min-max normalised value reaches each threshold, (B, T); their number, (B,)."""
    values, inside = fixated_values(saliency, fixations)
    values = (accurate_like(values) - low) / (high - low)
    reached = (values[:, None] >= thresholds[:, None]) & inside[:, None]
    n = inside.sum(1)
    return accurate_like(reached.sum(2)) / n[:, None], n


def l1(saliency: Tensor, density: Tensor) -> Tensor:
    """Mean absolute difference of two maps in [0, 1], (B,): a term of the objective, no measure."""
    return (accurate(saliency) - accurate(density)).abs().mean(1)


def bce(saliency: Tensor, density: Tensor) -> Tensor:
    """Binary cross-entropy of a map against the min-max normalised density: a term of the objective, no measure.

    Args:
        saliency: (B, H, W) in [0, 1]; kept the smallest step away from 0 and 1, so that value and gradient are finite.
        density: (B, H, W), any range; min-max normalised here.

    Returns:
        (B,), means over the pixels, in nats; NaN where the density map is constant: it has no range to scale to [0, 1],
        and zeros instead would teach that nothing is salient where in truth nobody's gaze was recorded.
    """
    check(saliency, density)
    p, d = accurate(saliency), above_minimum(density)
    step = torch.finfo(p.dtype).eps
    p, d = p.clamp(step, 1 - step), d / d.amax(1, keepdim=True)
    value = -(d * torch.log(p) + (1 - d) * torch.log(1 - p)).mean(1)  # written out: autocast refuses PyTorch's own
    return defined_where(value, ~is_constant(density))


class Measure(NamedTuple):
    """An entry of `MEASURES`.

    Attributes:
        label: its name in tables.
        function: (saliency, *targets) -> (B,), NaN where undefined.
        targets: its arguments after the saliency map, of those of `measures`.
    """
    label: str
    function: Callable[..., Tensor]
    targets: tuple[str, ...] = ("density",)


# Short names, for files -> measures, in the order of tables. A new measure is a function and an entry here.
MEASURES = {
    "auc_j": Measure("AUC-J", auc_judd, ("fixations",)),
    "sim": Measure("SIM", similarity),
    "s_auc": Measure("s-AUC", auc_shuffled, ("fixations", "other_fixations")),
    "cc": Measure("CC", cc),
    "nss": Measure("NSS", nss, ("fixations",)),
    "kl": Measure("KL", kldiv),
}
LABELS = {**{name: measure.label for name, measure in MEASURES.items()}, "l1": "L1", "bce": "BCE", "mae": "MAE"}
# Terms of the objective, and their sign in the loss.
SIGNS = {"kl": 1, "cc": -1, "nss": -1, "sim": -1, "l1": 1, "bce": 1}
TERMS = {"kl": kldiv, "cc": cc, "nss": nss, "sim": similarity, "l1": l1, "bce": bce}
GRADIENTS = ("averaged", "summed")  # of the batches of a step
KL_OVER = ("sample", "batch")       # over what both maps of KL are divided by their sums


def measures(saliency: Tensor, density: Tensor, fixations: Tensor, other_fixations: Tensor) -> dict[str, Tensor]:
    """All of `MEASURES` of a batch, {"auc_j": (B,), ..}; NaN where undefined.

    Args:
        saliency, density: (B, H, W) of one size.
        fixations, other_fixations: (B, H, W) bool.
    """
    saliency, density = accurate_like(saliency), accurate_like(density)  # once for all
    targets = {"density": density, "fixations": fixations, "other_fixations": other_fixations}
    return {name: measure.function(saliency, *(targets[target] for target in measure.targets))
            for name, measure in MEASURES.items()}


def objective(saliency: Tensor, density: Tensor, fixations: Tensor, weights: dict[str, float],
              kl_over: str = "sample") -> dict[str, Tensor | int]:
    """The training loss, w_kl KL - w_cc CC - w_nss NSS - w_sim SIM + w_l1 L1 + w_bce BCE, and its terms.

    A sample whose term is undefined is left out of that term before any division, so gradients stay finite; sums are
    divided by the full batch size. The paper names the terms; the default weights are ours (docs/differences.md).

    Args:
        saliency: (B, H, W) in (0, 1), float32; a non-finite one makes the loss non-finite.
        density: (B, H, W) in [0, 1].
        fixations: (B, H, W) bool.
        weights: of "kl", "cc", "nss", "sim", "l1" and "bce"; a missing one is 0.
        kl_over: "sample" divides each map by its own sum; "batch" divides both sides by their sums over the whole
            batch, as if it were one tall map, so that maps with more density weigh more. Then all samples are left out,
            or none.

    Returns:
        "loss", a scalar with a gradient; "kl", "cc", "nss", "sim", "l1", "bce", scalars, detached, unweighted;
        "kl_left_out" and so on, the number of samples left out of each.

    Raises:
        ValueError: a weight has an unknown name, or `kl_over` is neither.
    """
    if kl_over not in KL_OVER:
        raise ValueError(f"kl_over must be one of {KL_OVER}, got {kl_over!r}")
    unknown = set(weights) - set(TERMS)
    if unknown:
        raise ValueError(f"unknown terms of the objective: {sorted(unknown)}; the terms are {list(TERMS)}")
    terms, loss = {}, accurate(saliency).sum() * 0  # keeps a graph even if nothing is defined
    for name, measure in TERMS.items():
        maps = saliency, fixations if measure is nss else density
        if measure is kldiv and kl_over == "batch":
            maps = tuple(x.flatten(0, 1)[None] for x in maps)  # one tall map, (1, B H, W)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weights.get(name, 0) != 0):
            value, left_out = batch_mean(measure, *maps)
        terms[f"{name}_left_out"] = left_out * (len(saliency) // len(maps[0]))
        if weights.get(name, 0) != 0:
            loss = loss + SIGNS[name] * weights[name] * value
        terms[name] = value.detach()
    return {"loss": loss, **terms}


def euclidean(levels: Tensor, density: Tensor, fixations: Tensor | None = None) -> dict[str, Tensor]:
    """Caffe's Euclidean loss, of the two-stream networks: half the sum of squared differences over the batch size.

    Args:
        levels: (B, h, w) float32, in the range of a density map, not clamped to it.
        density: (B, H, W) in [0, 1], resized bilinearly where the sizes differ.
        fixations: not used.

    Returns:
        "loss", a scalar with a gradient; "euclidean", the same, detached.
    """
    if levels.shape[1:] != density.shape[1:]:
        size = tuple(levels.shape[1:])
        density = F.interpolate(density[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    loss = (levels - density).square().sum() / (2 * len(levels))
    return {"loss": loss, "euclidean": loss.detach()}


def logits(outputs: tuple[Tensor, Tensor], mask: Tensor, fixations: Tensor | None = None) -> dict[str, Tensor]:
    """The sum of the binary cross-entropies of two maps' logits against one mask: SMCF's objective.

    Args:
        outputs: saliency and motion logits, (B, 1, h, w) float32 each.
        mask: (B, h, w) in [0, 1].
        fixations: not used.

    Returns:
        "loss", a scalar with a gradient; "saliency_bce" and "motion_bce", its two terms, means over pixels in nats,
        detached.
    """
    terms = [F.binary_cross_entropy_with_logits(output[:, 0], mask) for output in outputs]
    return {"loss": sum(terms), **{name: term.detach() for name, term in zip(("saliency_bce", "motion_bce"), terms)}}


# What a recipe calls its loss -> outputs, density or mask, fixations -> terms. Only "maps" has weights.
OBJECTIVES = {"maps": objective, "euclidean": euclidean, "logits": logits}


def batch_mean(measure, saliency: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """The sum over the samples where the measure is defined, over the batch size; and how many were left out."""
    values = measure(saliency, target)
    undefined = values.isnan() & saliency.flatten(1).isfinite().all(1)  # a broken saliency map is not left out
    left_out = int(undefined.sum())
    if left_out == len(values):
        return values.new_zeros(()), left_out
    if left_out:  # again without them: their gradient is NaN
        values = measure(saliency[~undefined], target[(~undefined).to(target.device)])
    return values.sum() / len(saliency), left_out


# How a network is trained

@dataclass(frozen=True)
class Recipe:
    """How a network is trained unless told otherwise: the defaults of train.py's flags of the same names.

    Attributes:
        optimizer: a key of `training.optimizer.OPTIMIZERS`, with `optimizer_options` as its keyword arguments.
        lr: learning rate; after so many steps (`milestones`), and after every so many epochs (`decay_epochs`), that of
            groups of parameters that are "scheduled" is multiplied by `gamma`.
        batch_size: clips of a forward pass. A step takes `accumulate` batches, and its gradients are "averaged" over
            all its maps or "summed" over its batches (`gradients`).
        epochs: in all, with a validation after every `val_every`; 0: none, the last weights are kept.
        flip: whether half of the clips are mirrored left to right.
        zoom: of networks that carry a state, the share of a still's sides that a clip made of it leaves out, at most,
            where it pans and zooms through the picture; 0: a still is a clip of one frame.
        scales: of the frame size; a step is made at each, for every batch.
        loss: a key of `OBJECTIVES`. "maps" compares maps by several terms, with these `loss_weights` (missing ones are
            0), and KL is normalised over each "sample" or over the whole "batch" (`kl_over`).
        thaw: whether the pretrained part is frozen at first, and learns later, as the network's `thaw` says.
        warmup: first steps over which all rates rise linearly to their full values.

    Raises:
        ValueError: a field has a value that means nothing; the message names it.
    """
    optimizer: str = "adam"
    optimizer_options: dict = field(default_factory=dict)
    lr: float = 1e-4
    milestones: tuple[int, ...] = ()
    gamma: float = 1.0
    decay_epochs: int | None = None
    batch_size: int = 1
    accumulate: int = 1
    gradients: str = "averaged"
    epochs: int = 10
    val_every: int = 1
    flip: bool = False
    zoom: float = 0.0
    scales: tuple[float, ...] = (1.0,)
    loss: str = "maps"
    kl_over: str = "sample"
    loss_weights: dict[str, float] = field(default_factory=lambda: {"kl": 1.0})
    warmup: int = 0
    thaw: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss_weights", {**dict.fromkeys(TERMS, 0.0), **self.loss_weights})
        choices = {"gradients": GRADIENTS, "loss": OBJECTIVES, "kl_over": KL_OVER}
        least = {"batch_size": 1, "accumulate": 1, "epochs": 1, "val_every": 0, "warmup": 0}
        wrong = [name for name, known in choices.items() if getattr(self, name) not in known]
        wrong += [name for name, number in least.items() if getattr(self, name) < number]
        wrong += ["lr"] * (not self.lr > 0) + ["scales"] * (not self.scales or min(self.scales) <= 0)
        wrong += ["zoom"] * (not 0 <= self.zoom < 1) + ["loss_weights"] * (self.loss_weights.keys() != TERMS.keys())
        if wrong:
            raise ValueError(f"a recipe cannot have {', '.join(f'{name}={getattr(self, name)!r}' for name in wrong)}")

    def compute_terms(self, outputs: Tensor | tuple[Tensor, ...], target: Tensor,
                      fixations: Tensor | None = None) -> dict[str, Tensor | int]:
        """The objective's terms, with "loss"; arguments are those of the function in `OBJECTIVES`."""
        options = {"weights": self.loss_weights, "kl_over": self.kl_over} if self.loss == "maps" else {}
        return OBJECTIVES[self.loss](outputs, target, fixations, **options)

    def decays(self, steps: int, epochs: int) -> int:
        """How often the rate has been multiplied by gamma after so many steps and whole epochs."""
        by_epochs = epochs // self.decay_epochs if self.decay_epochs else 0
        return sum(steps >= milestone for milestone in self.milestones) + by_epochs

    def warmup_factor(self, steps: int) -> float:
        """The share of their full values that rates have after so many steps."""
        return min(1.0, (steps + 1) / self.warmup) if self.warmup else 1.0

    def record(self) -> dict:
        """What must be the same when a run is resumed, in plain values: not how long it is, nor what has no flag."""
        without_flag = ("optimizer", "optimizer_options", "milestones", "gamma", "decay_epochs", "loss")
        values = {name: value for name, value in vars(self).items() if name not in ("epochs", *without_flag)}
        values["objective"] = values.pop("loss_weights")  # its name in run folders
        return {**values, "scales": list(self.scales)}


# Shared arithmetic. Maps come in as (B, H, W) and are handled as (B, N).

def check(saliency: Tensor, target: Tensor) -> None:
    """Raise a ValueError where two arguments are not batches of maps of one size."""
    if saliency.ndim != 3 or saliency.shape != target.shape:
        raise ValueError(f"expected two batches of maps of one size, (B, H, W), got {tuple(saliency.shape)} and "
                         f"{tuple(target.shape)}: resize one of them, or add the batch axis to a single map with "
                         "[None]")


def accurate(x: Tensor) -> Tensor:
    """(B, H, W) -> (B, N), as `accurate_like`."""
    return accurate_like(x.flatten(1))


def accurate_like(x: Tensor) -> Tensor:
    """float64; float32 on devices without it (mps)."""
    return x.float() if x.device.type == "mps" else x.double()


def above_minimum(x: Tensor) -> Tensor:
    """(B, H, W) -> (B, N) with 0 as the lowest value."""
    x = accurate(x)
    return x - x.amin(1, keepdim=True)


def is_constant(x: Tensor) -> Tensor:
    """(B, ..) -> (B,) bool."""
    x = x.flatten(1)
    return x.amin(1) == x.amax(1)


def defined_where(value: Tensor, condition: Tensor) -> Tensor:
    """The value where the condition holds, else NaN; both (B,)."""
    return torch.where(condition, value, torch.full_like(value, torch.nan))


def is_finite(x: Tensor) -> Tensor:
    """(B, N) -> (B,) bool."""
    return (x.amax(1) - x.amin(1)).isfinite()


def fixated_values(x: Tensor, fixations: Tensor) -> tuple[Tensor, Tensor]:
    """The values of `x` at the fixations, (B, K), padded; and which are not padding, (B, K) bool. K is at least 1.

    Fixations that lie on the CPU are listed there, and the list goes to the device of `x` without waiting for it.
    """
    if fixations.dtype != torch.bool:
        raise ValueError(f"expected fixations of dtype bool, got {fixations.dtype}: give fixations > 0")
    fixations = fixations.flatten(1)
    n = fixations.sum(1)
    sample, place = fixations.nonzero(as_tuple=True)
    rank = torch.arange(len(sample), device=n.device) - (n.cumsum(0) - n)[sample]
    places = n.new_full((len(n), max(1, int(n.max()))), -1)
    places[sample, rank] = place
    places = to_device(places, x.device)
    return x.flatten(1).gather(1, places.clamp(min=0)), places >= 0


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Like `.to(device)`, but a copy from the CPU to a GPU does not wait for what the GPU is doing."""
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
