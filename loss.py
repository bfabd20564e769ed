"""How two maps are compared: the six measures, and the training objective built from the same functions.

Every measure takes a batch and returns one value a sample, NaN where it is undefined: NSS and both AUCs of a frame
without fixations; CC, NSS, SIM and shuffled AUC of a constant saliency map; CC, SIM and KL of a constant density map.
Source: the definitions of the DHF1K benchmark's evaluation code (MIT Saliency Benchmark; Judd, Bylinskii).
"""
import torch
from torch import Tensor

EPS = 2.2204e-16                                                           # the benchmark's; another one shifts KL


def cc(saliency: Tensor, density: Tensor) -> Tensor:
    """Linear correlation coefficient, in [-1, 1], higher is better.

    Args:
        saliency: (B, H, W), any range.
        density: (B, H, W), any range.

    Returns:
        (B,); NaN where either map is constant.
    """
    p, d = (centred(x) for x in (saliency, density))
    value = (p * d).sum(1) / ((p * p).sum(1) * (d * d).sum(1)).sqrt()
    return defined_where(value, ~is_constant(saliency) & ~is_constant(density))


def similarity(saliency: Tensor, density: Tensor) -> Tensor:
    """SIM, the overlap of the two maps as histograms, in [0, 1], higher is better.

    Args:
        saliency: (B, H, W), any range; min-max normalised here, as the benchmark does.
        density: (B, H, W), likewise.

    Returns:
        (B,); NaN where either map is constant.
    """
    p, d = (min_max(x) for x in (saliency, density))
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
    p, fixated = centred(saliency), fixations.flatten(1)
    std = ((p * p).sum(1) / (p.shape[1] - 1)).sqrt()
    count = fixated.sum(1)
    value = (p * fixated).sum(1) / (std * count)
    return defined_where(value, (count > 0) & ~is_constant(saliency))


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
    values, n = fixated_values(saliency, fixations)                        # (B, K) ascending, (B,)
    ordered = saliency.flatten(1).sort(dim=1).values
    m = ordered.shape[1] - n                                               # pixels that are not fixated
    area = expected_area(values, n, ordered, m) if ties == "expected" else plain_area(values, n, ordered, m)
    return defined_where(area, (n > 0) & (m > 0))


def plain_area(values: Tensor, n: Tensor, ordered: Tensor, m: Tensor) -> Tensor:
    """The trapezoid rule through (0, 0), one point a fixated value, and (1, 1)."""
    rank = 1 + n[:, None] - torch.arange(1, values.shape[1] + 1, device=n.device)  # n .. 1 along ascending values, then <= 0
    fp = (count_from(ordered, values) - rank) / m[:, None]
    # In ascending order: (1, 1), (fp, n / n), .. (fp, 1 / n), (0, 0). The rule sums the mean TP of neighbours times their
    # distance in FP, which is the sum over all points of FP times half the difference of its neighbours' TP.
    # Half the difference is 1 / n, but 1 / (2 n) at the topmost-TP point, whose neighbour (1, 1) has TP 1 as well.
    inside = accurate_like(fp) * (rank > 0)
    return 1 - (inside.sum(1) - inside[:, 0] / 2) / n


def expected_area(values: Tensor, n: Tensor, ordered: Tensor, m: Tensor) -> Tensor:
    """The expectation of `plain_area` over noise that puts tied pixels into a random order (closed form).

    With a fixated and b other pixels at a value, A others above it, and l the lowest fixated value:
    1 - sum a (A + b / 2) / (n M) + (A_l + b_l a_l / (a_l + 1)) / (2 n M).
    """
    above = count_above(ordered, values) - count_above(values, values)     # A, others above each fixated value
    fixated_here = count_from(values, values) - count_above(values, values)
    here = count_from(ordered, values) - count_above(ordered, values) - fixated_here  # b
    above, here, a = (accurate_like(x) for x in (above, here, fixated_here))
    inside = values.isfinite()                                             # the rest is padding
    total = ((above + here / 2) * inside).sum(1)
    lowest = above[:, 0] + here[:, 0] * a[:, 0] / (a[:, 0] + 1)
    return 1 - (total - lowest / 2) / (n * m)


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
    normalised = min_max(saliency).view(saliency.shape)
    thresholds = torch.arange(10, -1, -1, device=saliency.device, dtype=normalised.dtype) * 0.1
    tp, n = share_from(normalised, fixations, thresholds)                  # (B, 11), from 0 or more up to 1
    fp, others = share_from(normalised, other_fixations, thresholds)
    tp, fp = (torch.nn.functional.pad(x, (1, 0)) for x in (tp, fp))        # (0, 0); (1, 1) is the point of threshold 0
    area = ((fp[:, 1:] - fp[:, :-1]) * (tp[:, 1:] + tp[:, :-1]) / 2).sum(1)
    return defined_where(area, (n > 0) & (others > 0) & ~is_constant(saliency))


def l1(saliency: Tensor, density: Tensor) -> Tensor:
    """Mean absolute difference of two maps in [0, 1], (B,): a term of the objective, no measure."""
    return (accurate(saliency) - accurate(density)).abs().mean(1)


# Short names in files and tables -> functions; in the order of tables.
MEASURES = {"auc_j": auc_judd, "sim": similarity, "s_auc": auc_shuffled, "cc": cc, "nss": nss, "kl": kldiv}
LABELS = {"auc_j": "AUC-J", "sim": "SIM", "s_auc": "s-AUC", "cc": "CC", "nss": "NSS", "kl": "KL", "l1": "L1"}
# Terms of the objective: their sign in the loss, and whether they compare with fixations.
SIGNS = {"kl": 1, "cc": -1, "nss": -1, "sim": -1, "l1": 1}
TERMS = {"kl": kldiv, "cc": cc, "nss": nss, "sim": similarity, "l1": l1}


def measures(saliency: Tensor, density: Tensor, fixations: Tensor, other_fixations: Tensor) -> dict[str, Tensor]:
    """All six measures of a batch, {"auc_j": (B,), ..}; NaN where undefined.

    Args:
        saliency, density: (B, H, W) of one size.
        fixations, other_fixations: (B, H, W) bool.
    """
    targets = {"auc_j": (fixations,), "s_auc": (fixations, other_fixations), "nss": (fixations,)}
    return {name: measure(saliency, *targets.get(name, (density,))) for name, measure in MEASURES.items()}


def objective(saliency: Tensor, density: Tensor, fixations: Tensor, weights: dict[str, float]) -> dict[str, Tensor | int]:
    """The training loss, w_kl KL - w_cc CC - w_nss NSS - w_sim SIM + w_l1 L1, and its terms.

    A sample whose term is undefined is left out of that term before any division, so gradients stay finite; sums are
    divided by the full batch size. The paper names the terms; the default weights are ours (README, differences).

    Args:
        saliency: (B, H, W) in (0, 1), float32; a non-finite one makes the loss non-finite.
        density: (B, H, W) in [0, 1].
        fixations: (B, H, W) bool.
        weights: of "kl", "cc", "nss", "sim" and "l1"; a missing one is 0.

    Returns:
        "loss", a scalar with a gradient; "kl", "cc", "nss", "sim", "l1", scalars, detached, unweighted;
        "kl_left_out" and so on, the number of samples left out of each.

    Raises:
        ValueError: a weight has an unknown name.
    """
    unknown = set(weights) - set(TERMS)
    if unknown:
        raise ValueError(f"unknown terms of the objective: {sorted(unknown)}; the terms are {list(TERMS)}")
    terms, loss = {}, accurate(saliency).sum() * 0                         # keeps a graph even if nothing is defined
    for name, measure in TERMS.items():
        target = fixations if measure is nss else density
        with torch.set_grad_enabled(torch.is_grad_enabled() and weights.get(name, 0) != 0):
            value, terms[f"{name}_left_out"] = batch_mean(measure, saliency, target)
        if weights.get(name, 0) != 0:
            loss = loss + SIGNS[name] * weights[name] * value
        terms[name] = value.detach()
    return {"loss": loss, **terms}


def batch_mean(measure, saliency: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """The sum over the samples where the measure is defined, over the batch size; and how many were left out."""
    values = measure(saliency, target)
    undefined = values.isnan() & saliency.flatten(1).isfinite().all(1)     # a broken saliency map is not left out
    left_out = int(undefined.sum())
    if left_out:                                                           # once more without them: their gradient is NaN
        values = measure(saliency[~undefined], target[~undefined])
    return values.sum() / len(saliency), left_out


# Shared arithmetic. Maps come in as (B, H, W) and are handled as (B, N).

def accurate(x: Tensor) -> Tensor:
    """(B, H, W) -> (B, N), as `accurate_like`."""
    return accurate_like(x.flatten(1))


def accurate_like(x: Tensor) -> Tensor:
    """float64; float32 on devices without it (mps)."""
    return x.float() if x.device.type == "mps" else x.double()


def centred(x: Tensor) -> Tensor:
    """(B, H, W) -> (B, N) of mean 0."""
    x = accurate(x)
    return x - x.mean(1, keepdim=True)


def min_max(x: Tensor) -> Tensor:
    """(B, H, W) -> (B, N) from 0 to 1; NaN where constant."""
    x = accurate(x)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    return (x - low) / (high - low)


def is_constant(x: Tensor) -> Tensor:
    """(B, H, W) -> (B,) bool."""
    x = x.flatten(1)
    return x.amin(1) == x.amax(1)


def defined_where(value: Tensor, condition: Tensor) -> Tensor:
    """The value where the condition holds, else NaN; both (B,)."""
    return torch.where(condition, value, torch.full_like(value, torch.nan))


def fixated_values(x: Tensor, fixations: Tensor) -> tuple[Tensor, Tensor]:
    """The values of (B, H, W) at the fixations, ascending and padded with infinity, (B, K); and their number, (B,)."""
    n = fixations.flatten(1).sum(1)
    sample, row, column = fixations.nonzero(as_tuple=True)
    place = torch.arange(len(sample), device=x.device) - (n.cumsum(0) - n)[sample]
    values = x.new_full((len(x), max(1, int(n.max())) if len(n) else 1), torch.inf)
    values[sample, place] = x[sample, row, column]
    return values.sort(dim=1).values, n


def count_from(ordered: Tensor, values: Tensor) -> Tensor:
    """How many of the ascending `ordered` (B, N) are finite and at or above each of `values` (B, K)."""
    return ordered.isfinite().sum(1, keepdim=True) - torch.searchsorted(ordered, values, side="left")


def count_above(ordered: Tensor, values: Tensor) -> Tensor:
    """How many of the ascending `ordered` (B, N) are finite and above each of `values` (B, K)."""
    return (ordered.isfinite().sum(1, keepdim=True) - torch.searchsorted(ordered, values, side="right")).clamp(min=0)


def share_from(x: Tensor, fixations: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The share of the fixated pixels of (B, H, W) at or above each threshold, (B, thresholds); and their number, (B,)."""
    values, n = fixated_values(x, fixations)
    reached = (values[:, None] >= thresholds[:, None]) & values.isfinite()[:, None]
    return reached.sum(2).to(x.dtype) / n[:, None], n
