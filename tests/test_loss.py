import itertools
import math

import numpy as np
import pytest
import torch
from conftest import TESTS

from loss import (
    MEASURES,
    SIGNS,
    TERMS,
    auc_judd,
    auc_shuffled,
    bce,
    cc,
    euclidean,
    kldiv,
    logits,
    measures,
    nss,
    objective,
    similarity,
)


def maps(*rows):
    """A batch of one map, (1, H, W)."""
    return torch.tensor([rows], dtype=torch.float32)


def fixated(*rows):
    return torch.tensor([rows]) > 0


CONSTANT, ZERO, RAMP = maps([0.5, 0.5], [0.5, 0.5]), maps([0.0, 0.0], [0.0, 0.0]), maps([0.1, 0.2], [0.3, 0.4])
NONE, ONE, ALL = fixated([0, 0], [0, 0]), fixated([0, 0], [0, 1]), fixated([1, 1], [1, 1])


# Degenerate maps

@pytest.mark.parametrize("value", [
    cc(CONSTANT, RAMP), cc(RAMP, CONSTANT), cc(RAMP, ZERO), similarity(CONSTANT, RAMP), similarity(RAMP, ZERO), kldiv(RAMP, CONSTANT), kldiv(RAMP, ZERO),
    nss(CONSTANT, ONE), nss(RAMP, NONE), auc_judd(RAMP, NONE), auc_judd(RAMP, ALL), auc_shuffled(RAMP, NONE, ONE), auc_shuffled(RAMP, ONE, NONE), auc_shuffled(CONSTANT, ONE, ONE),
])
def test_undefined_is_nan(value):
    assert value.shape == (1,) and value.isnan().all()


def test_one_undefined_sample_does_not_touch_its_neighbours():
    both = measures(torch.cat([CONSTANT, RAMP]), torch.cat([ZERO, RAMP]), torch.cat([NONE, ONE]), torch.cat([ALL, ALL]))
    alone = measures(RAMP, RAMP, ONE, ALL)
    for name in MEASURES:
        assert both[name][1] == alone[name][0]
        assert both[name][0].isnan()


def test_an_all_zero_saliency_map_has_a_finite_divergence():
    assert kldiv(ZERO, RAMP).isfinite()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_saliency_map_has_no_value_at_all(value):
    broken = maps([value, 0.2], [0.3, 0.4])
    assert all(result.isnan().all() for result in measures(broken, RAMP, ONE, fixated([1, 0], [0, 0])).values())


@pytest.mark.parametrize("saliency, target, message", [
    (RAMP[0], RAMP[0], r"\(B, H, W\), got \(2, 2\) and \(2, 2\)"), (RAMP, maps([0.1, 0.2]), r"got \(1, 2, 2\) and \(1, 1, 2\)"), (RAMP, RAMP.expand(2, -1, -1), "of one size"),
])
def test_maps_that_are_no_batch_or_differ_in_size_are_refused_by_every_measure(saliency, target, message):
    for call in (lambda: cc(saliency, target), lambda: similarity(saliency, target), lambda: kldiv(saliency, target), lambda: nss(saliency, target > 0),
                 lambda: auc_judd(saliency, target > 0), lambda: auc_shuffled(saliency, target > 0, saliency > 0), lambda: auc_shuffled(saliency, saliency > 0, target > 0)):
        with pytest.raises(ValueError, match=message):
            call()


def test_fixations_that_are_not_bool_are_refused():
    with pytest.raises(ValueError, match="expected fixations of dtype bool, got torch.float32"):
        nss(RAMP, RAMP)


def test_a_batch_is_measured_like_its_samples_one_by_one():
    """Numbers of fixations from none to all in one batch, with and without ties."""
    generator = torch.Generator().manual_seed(3)
    saliency, density = (torch.rand(8, 5, 7, generator=generator) for _ in range(2))
    saliency[::2] = (saliency[::2] * 4).round() / 4
    fixations, others = (torch.rand(8, 5, 7, generator=generator) < share for share in (torch.linspace(-0.1, 1.1, 8)[:, None, None], 0.4))
    together = measures(saliency, density, fixations, others)
    for i in range(8):
        alone = measures(*(x[i:i + 1] for x in (saliency, density, fixations, others)))
        for name in MEASURES:
            assert together[name][i].item() == pytest.approx(alone[name].item(), abs=1e-12, nan_ok=True)


# Answers known by hand

def test_a_map_compared_with_itself_is_perfect():
    assert cc(RAMP, RAMP).item() == pytest.approx(1)
    assert similarity(RAMP, RAMP).item() == pytest.approx(1)
    assert kldiv(RAMP, RAMP).item() == pytest.approx(0, abs=1e-12)


def test_an_inverted_map_is_as_wrong_as_can_be():
    assert cc(-RAMP, RAMP).item() == pytest.approx(-1)
    assert similarity(-RAMP, RAMP).item() == pytest.approx(1 / 3)          # (3 2 1 0) / 6 against (0 1 2 3) / 6: 0 + 1/6 + 1/6 + 0


def test_kl_of_a_uniform_map_from_one_bright_pixel_is_the_log_of_their_number():
    assert kldiv(CONSTANT, maps([0.0, 0.0], [0.0, 1.0])).item() == pytest.approx(math.log(4))


def test_nss_is_the_standardised_value_at_the_fixation():
    assert nss(RAMP, ONE).item() == pytest.approx(0.15 / np.std([0.1, 0.2, 0.3, 0.4], ddof=1), rel=1e-6)


@pytest.mark.parametrize("ties", ["expected", "none"])
def test_auc_judd_of_one_fixation_on_the_highest_and_on_the_lowest_pixel(ties):
    assert auc_judd(RAMP, ONE, ties).item() == pytest.approx(1)            # through (0, 1): area 1
    assert auc_judd(-RAMP, ONE, ties).item() == pytest.approx(0.5)         # the line from (0, 0) to (1, 1)


def test_auc_judd_of_two_fixations_follows_the_trapezoid_rule():
    assert auc_judd(maps([4.0, 3.0, 2.0, 1.0]), fixated([1, 0, 1, 0])).item() == pytest.approx(0.875)  # through (0, 0.5) and (0.5, 1)


@pytest.mark.parametrize("n", [1, 3])
def test_auc_judd_of_a_constant_map_follows_its_formula(n):
    fixations = torch.arange(20).view(1, 4, 5) < n
    assert auc_judd(torch.ones(1, 4, 5), fixations).item() == pytest.approx(0.5 + 1 / (2 * (n + 1)))


def test_auc_judd_with_ties_is_the_mean_over_many_random_orders_of_the_tied_pixels():
    generator = torch.Generator().manual_seed(0)
    saliency = torch.randint(0, 4, (1, 5, 6), generator=generator).float()
    fixations = torch.rand(1, 5, 6, generator=generator) < 0.3
    noisy = saliency.expand(20000, -1, -1) + 1e-3 * torch.rand(20000, 5, 6, generator=generator)
    sampled = auc_judd(noisy, fixations.expand(20000, -1, -1), ties="none")
    assert auc_judd(saliency, fixations).item() == pytest.approx(sampled.mean().item(), abs=4 * sampled.std().item() / math.sqrt(20000))


def plain_auc_judd(values, fixations):
    """The definition, over pixels without ties: thresholds at the fixated values, from above."""
    n, tp, fp = sum(fixations), [0.0], [0.0]
    for i, threshold in enumerate(sorted((v for v, f in zip(values, fixations) if f), reverse=True), start=1):
        tp.append(i / n)
        fp.append((sum(v >= threshold for v in values) - i) / (len(values) - n))
    return np.trapezoid([*tp, 1.0], [*fp, 1.0]) if hasattr(np, "trapezoid") else np.trapz([*tp, 1.0], [*fp, 1.0])


def test_auc_judd_without_breaking_ties_equals_the_definition():
    generator = torch.Generator().manual_seed(4)
    for share in torch.linspace(0.05, 0.95, 20):
        saliency, fixations = torch.rand(1, 3, 5, generator=generator), torch.rand(1, 3, 5, generator=generator) < share
        if 0 < fixations.sum() < 15:
            expected = plain_auc_judd(saliency.flatten().tolist(), fixations.flatten().tolist())
            assert auc_judd(saliency, fixations, ties="none").item() == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("values, fixations", [
    ([1, 1, 2, 2, 2, 3], [0, 1, 1, 0, 1, 0]), ([0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 1, 0]), ([5, 5, 5, 5, 5, 5], [1, 1, 0, 0, 0, 0]), ([3, 1, 3, 2, 2, 3], [1, 0, 1, 0, 0, 0]),
])
def test_auc_judd_with_ties_equals_the_mean_over_every_order_of_the_tied_pixels(values, fixations):
    areas = [plain_auc_judd([v + 1e-3 * rank for v, rank in zip(values, order)], fixations) for order in itertools.permutations(range(6))]
    assert auc_judd(maps(values), fixated(fixations)).item() == pytest.approx(np.mean(areas), abs=1e-12)


def test_auc_judd_refuses_an_unknown_rule_for_ties():
    with pytest.raises(ValueError, match="ties.*got 'random'"):
        auc_judd(RAMP, ONE, ties="random")


def test_shuffled_auc_is_one_where_fixations_are_high_and_others_low_and_half_where_they_are_the_same():
    assert auc_shuffled(RAMP, ONE, fixated([1, 0], [0, 0])).item() == pytest.approx(1)
    assert auc_shuffled(RAMP, ALL, ALL).item() == pytest.approx(0.5)


def one_split(values, drawn):
    """The rule for one random split, as it is defined: thresholds 0, 0.1, .. up to the largest value seen."""
    thresholds = [i * 0.1 for i in range(11) if i * 0.1 <= max(*values, *drawn)][::-1]
    tp, fp = ([0.0, *(np.mean([v >= t for v in x]) for t in thresholds), 1.0] for x in (values, drawn))
    return sum((fp[i + 1] - fp[i]) * (tp[i + 1] + tp[i]) / 2 for i in range(len(tp) - 1))


@pytest.mark.parametrize("fixated_pixels", [[1, 6, 7], [0, 1, 4, 5, 7, 9, 10], [3]])
def test_shuffled_auc_equals_the_mean_over_every_possible_draw(fixated_pixels):
    """Fewer and more fixations than the other frames have, and pixels on both sides."""
    saliency = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fixations, union = torch.zeros(2, 12, dtype=torch.bool)
    others = [0, 2, 3, 6, 8, 11]
    fixations[fixated_pixels], union[others] = True, True
    values = ((saliency - saliency.min()) / (saliency.max() - saliency.min())).flatten().tolist()
    areas = [one_split([values[i] for i in fixated_pixels], [values[i] for i in drawn])
             for drawn in itertools.combinations(others, min(len(fixated_pixels), len(others)))]
    assert auc_shuffled(saliency, fixations.view(1, 3, 4), union.view(1, 3, 4)).item() == pytest.approx(np.mean(areas), abs=1e-9)


# The benchmark's own results

@pytest.mark.parametrize("part, case", [(part, case) for part, cases in (("a", range(6)), ("b", range(6, 12))) for case in cases])
def test_measures_equal_what_the_benchmarks_code_returned(part, case):
    recorded = np.load(TESTS / "golden" / f"metrics_dhf1k_matlab_{part}.npz")
    saliency, density = torch.from_numpy(recorded[f"saliency_{case}"])[None], torch.from_numpy(recorded[f"density_{case}"])[None].double() / 255
    fixations, other = (torch.from_numpy(recorded[f"{name}_{case}"])[None] > 0 for name in ("fixations", "other"))
    ours = {name: value.item() for name, value in measures(saliency, density, fixations, other).items()}
    theirs = {name: recorded[name][case % 6] for name in ("cc", "sim", "nss", "kldiv", "auc_judd_jitter", "auc_judd_nojitter", "auc_shuffled")}
    for ours_name, theirs_name in {"cc": "cc", "sim": "sim", "nss": "nss", "kl": "kldiv"}.items():
        assert ours[ours_name] == pytest.approx(theirs[theirs_name], abs=1e-6)
    assert auc_judd(saliency, fixations, ties="none").item() == pytest.approx(theirs["auc_judd_nojitter"], abs=1e-6)
    assert ours["auc_j"] == pytest.approx(theirs["auc_judd_jitter"], abs=1e-4)
    assert ours["s_auc"] == pytest.approx(theirs["auc_shuffled"], abs=1e-2)


# Another library's

@pytest.mark.filterwarnings("ignore")
def test_measures_equal_those_of_pysaliency_where_the_definitions_coincide(monkeypatch):
    monkeypatch.setattr(np, "trapz", getattr(np, "trapezoid", None) or np.trapz, raising=False)  # pysaliency 0.2.22 calls it by NumPy 1's name
    pysaliency = pytest.importorskip("pysaliency", reason="needs the extra crosscheck")
    generator = np.random.default_rng(0)
    saliency, density = generator.random((24, 30)), generator.random((24, 30))  # no ties, which are broken at random there
    fixations = generator.random((24, 30)) < 0.05
    y, x = fixations.nonzero()
    ours = {name: value.item() for name, value in measures(*(torch.from_numpy(a)[None] for a in (saliency, density, fixations, fixations))).items()}
    theirs = pysaliency.metrics
    assert ours["cc"] == pytest.approx(theirs.CC(saliency, density), abs=1e-12)
    assert ours["kl"] == pytest.approx(theirs.MIT_KLDiv(saliency, density), abs=1e-12)
    assert ours["sim"] == pytest.approx(theirs.SIM(saliency - saliency.min(), density - density.min()), abs=1e-12)
    assert ours["nss"] == pytest.approx(theirs.NSS(saliency, x, y).mean() * math.sqrt(1 - 1 / saliency.size), abs=1e-12)  # theirs divides by N, not N - 1

    class Model(pysaliency.SaliencyMapModel):
        def _saliency_map(self, stimulus):
            return saliency

    stimuli = pysaliency.Stimuli([np.zeros((24, 30, 3), np.uint8)])
    trains = pysaliency.FixationTrains.from_fixation_trains([x], [y], [np.arange(len(x))], [0], [0])
    assert ours["auc_j"] == pytest.approx(Model().AUC_Judd(stimuli, trains, jitter=False), abs=1e-12)


# The objective

WEIGHTS = {"kl": 1.0, "cc": 0.5, "nss": 0.1, "sim": 2.0, "l1": 3.0, "bce": 0.7}


def random_batch(size=3):
    generator = torch.Generator().manual_seed(2)
    saliency = torch.rand(size, 6, 8, generator=generator, requires_grad=True)
    return saliency, torch.rand(size, 6, 8, generator=generator), torch.rand(size, 6, 8, generator=generator) < 0.2


def test_loss_is_the_weighted_sum_of_its_terms_and_every_weight_counts():
    terms = objective(*random_batch(), WEIGHTS)
    assert terms["loss"].item() == pytest.approx(sum(sign * WEIGHTS[name] * terms[name].item() for name, sign in zip(("kl", "cc", "nss", "sim", "l1", "bce"), (1, -1, -1, -1, 1, 1))))
    for name in WEIGHTS:
        without = objective(*random_batch(), {**WEIGHTS, name: 0})
        assert without["loss"].item() != pytest.approx(terms["loss"].item())
        assert without[name].item() == pytest.approx(terms[name].item())   # still logged


def test_terms_are_the_measures_averaged_over_the_batch():
    saliency, density, fixations = random_batch()
    terms = objective(saliency, density, fixations, WEIGHTS)
    for name, measure in TERMS.items():
        assert terms[name].item() == pytest.approx(measure(saliency, fixations if name == "nss" else density).mean().item())
        assert terms[f"{name}_left_out"] == 0


@pytest.mark.parametrize("kl_over", ["sample", "batch"])
def test_the_gradient_is_that_of_a_finite_difference(kl_over):
    saliency, density, fixations = random_batch(2)
    saliency = saliency.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: objective(s, density.double(), fixations, WEIGHTS, kl_over)["loss"], saliency)


def test_a_sample_without_fixations_is_left_out_counted_and_keeps_gradients_finite():
    saliency, density, fixations = random_batch()
    density[1], fixations[1] = 0, False
    terms = objective(saliency, density, fixations, WEIGHTS)
    terms["loss"].backward()
    assert [terms[f"{name}_left_out"] for name in ("kl", "cc", "nss", "sim", "l1", "bce")] == [1, 1, 1, 1, 0, 1]
    assert terms["cc"].item() == pytest.approx(cc(saliency[[0, 2]], density[[0, 2]]).sum().item() / 3)  # over the full batch
    assert saliency.grad.isfinite().all() and saliency.grad[0].abs().sum() > 0


def test_a_batch_in_which_nothing_is_defined_gives_zero_and_zero_gradients():
    saliency = torch.full((2, 4, 4), 0.5, requires_grad=True)
    terms = objective(saliency, torch.zeros(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool), {"kl": 1, "cc": 1, "nss": 0.1})
    terms["loss"].backward()
    assert terms["loss"].item() == 0 and terms["nss_left_out"] == 2
    assert (saliency.grad == 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_saliency_map_makes_the_loss_non_finite_instead_of_being_left_out(value):
    saliency, density, fixations = random_batch()
    with torch.no_grad():
        saliency[1, 2, 3] = value
    assert not objective(saliency, density, fixations, {"kl": 1, "cc": 1})["loss"].isfinite()


def test_an_unknown_term_is_refused():
    with pytest.raises(ValueError, match=r"unknown terms.*\['auc'\]"):
        objective(*random_batch(), {"auc": 1})


@pytest.mark.parametrize("density", [ZERO, CONSTANT, maps([1.0, 1.0], [1.0, 1.0])])
def test_binary_cross_entropy_with_a_constant_density_is_undefined_and_left_out(density):
    assert bce(RAMP, density).isnan().all()
    assert objective(RAMP, density, NONE, {"bce": 1.0})["bce_left_out"] == 1


def test_binary_cross_entropy_is_finite_with_finite_gradients_at_zero_and_one():
    saliency = maps([0.0, 1.0], [0.0, 1.0]).requires_grad_()               # the lower row is wrong, with certainty
    value = bce(saliency, maps([0.0, 1.0], [1.0, 0.0]))
    value.sum().backward()
    assert value.item() == pytest.approx(-math.log(2.0 ** -52) / 2) and saliency.grad.isfinite().all()


def test_binary_cross_entropy_known_by_hand():
    assert bce(maps([0.5, 0.5], [0.5, 0.5]), RAMP).item() == pytest.approx(math.log(2))  # whatever the density
    density = maps([0.2, 0.4])                                             # normalised: 0 and 1
    assert bce(maps([0.25, 0.75]), density).item() == pytest.approx(-math.log(0.75), rel=1e-6)
    assert bce(maps([0.25, 0.5]), density).item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2, rel=1e-6)
    assert SIGNS["bce"] == 1


def test_binary_cross_entropy_is_pytorchs_own_and_takes_maps_of_a_network_in_autocast():
    generator = torch.Generator().manual_seed(0)
    saliency, density = torch.rand(2, 5, 6, generator=generator), torch.rand(2, 5, 6, generator=generator)
    low, high = (extreme(density, dim=(1, 2), keepdim=True) for extreme in (torch.amin, torch.amax))
    expected = [torch.nn.functional.binary_cross_entropy(s.double(), d.double()).item() for s, d in zip(saliency, (density - low) / (high - low))]
    with torch.autocast("cpu", torch.bfloat16):
        found = bce(saliency, density)
    assert found.tolist() == pytest.approx(expected, rel=1e-6) and found.dtype == torch.float64


def test_kl_over_a_batch_with_a_map_of_zeros_counts_what_is_predicted_there():
    """Predicted: 4 times 1/8 and, where nobody looked, 4 times 1/8; looked at: one pixel of 8. So log 8, with nothing left out."""
    terms = objective(torch.full((2, 2, 2), 0.5), torch.cat([ZERO, maps([0.0, 0.0], [0.0, 1.0])]), torch.cat([NONE, ONE]), {"kl": 1.0}, "batch")
    assert terms["kl"].item() == terms["loss"].item() == pytest.approx(math.log(8)) and terms["kl_left_out"] == 0


def test_kl_over_a_batch_of_zeros_leaves_all_its_samples_out_with_finite_gradients():
    saliency = torch.full((3, 2, 2), 0.5, requires_grad=True)
    terms = objective(saliency, torch.zeros(3, 2, 2), torch.zeros(3, 2, 2, dtype=torch.bool), {"kl": 1.0}, "batch")
    terms["loss"].backward()
    assert terms["kl_left_out"] == 3 and terms["loss"].item() == 0 and (saliency.grad == 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_kl_over_a_batch_with_a_broken_map_is_not_finite(value):
    saliency, density, fixations = random_batch()
    with torch.no_grad():
        saliency[1, 2, 3] = value
    assert not objective(saliency, density, fixations, {"kl": 1.0}, "batch")["loss"].isfinite()


def test_kl_over_a_batch_known_by_hand():
    """Both sides over their sums of the batch: predicted 1/4 1/4 1/4 1/4, looked at 3/4 0 1/4 0."""
    saliency, density = torch.tensor([[[0.1, 0.1]], [[0.1, 0.1]]]), torch.tensor([[[0.6, 0.0]], [[0.2, 0.0]]])
    fixations = density > 0
    terms = {over: objective(saliency, density, fixations, {"kl": 1.0}, over)["kl"].item() for over in ("sample", "batch")}
    assert terms["batch"] == pytest.approx(0.75 * math.log(3), rel=1e-6)
    assert terms["sample"] == pytest.approx(math.log(2), rel=1e-6)


def test_kl_over_a_batch_of_one_is_that_of_the_sample():
    saliency, density, fixations = random_batch(1)
    found = [objective(saliency, density, fixations, WEIGHTS, over) for over in ("sample", "batch")]
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="kl_over must be one of .*got 'frame'"):
        objective(saliency, density, fixations, WEIGHTS, "frame")


# Objectives of other networks

def test_the_euclidean_loss_is_half_the_squared_differences_of_a_map_on_average_over_the_batch():
    levels = torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]]], requires_grad=True)
    terms = euclidean(levels, torch.tensor([[[0.0, 0.0]], [[0.5, 1.0]]]))
    assert terms["loss"].item() == pytest.approx((1 + 0.25) / 4) and terms["euclidean"] == terms["loss"] and not terms["euclidean"].requires_grad
    terms["loss"].backward()
    assert levels.grad.tolist() == [[[0.0, 0.5]], [[0.0, -0.25]]]


def test_the_euclidean_loss_brings_the_density_to_the_outputs_size():
    assert euclidean(torch.full((1, 2, 2), 0.5), torch.full((1, 4, 6), 0.5))["loss"] == 0


def test_logits_of_zero_cost_the_logarithm_of_two_in_each_map_and_confident_right_ones_nothing():
    mask = torch.tensor([[[1.0, 0.0]]])
    zeros, right = torch.zeros(1, 1, 1, 2), torch.tensor([[[[100.0, -100.0]]]])
    terms = logits((zeros, right), mask)
    assert terms["saliency_bce"].item() == pytest.approx(math.log(2)) and terms["motion_bce"].item() == pytest.approx(0) and terms["loss"].item() == pytest.approx(math.log(2))
    assert logits((right, -right), mask)["motion_bce"].item() == pytest.approx(100)
