import sys

import numpy as np
import pytest

from scoring.salient_objects import check_pair, vsod_measures, vsod_scores


@pytest.fixture
def library():
    return pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")


@pytest.fixture
def mask():
    mask = np.zeros((20, 30), bool)
    mask[5:12, 4:20] = True
    return mask


def test_without_the_library_an_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "py_sod_metrics", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"\.\[vsod\]\""):
        vsod_scores([(np.zeros((4, 6), np.uint8), np.zeros((4, 6), bool))])


@pytest.mark.parametrize("prediction, mask, said", [
    (np.zeros((4, 6)), np.zeros((4, 6), bool), "must be uint8 and its mask bool or uint8, got float64 and bool"),
    (np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.float32), "got uint8 and float32"), (np.zeros((4, 6), np.uint8), np.zeros((6, 4), bool), r"got \(4, 6\) and \(6, 4\)"),
    (np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6, 3), bool), r"must both be \(H, W\)"), (np.zeros((0, 6), np.uint8), np.zeros((0, 6), bool), "two pixels or more"),
    (np.zeros((4, 6), np.uint8), np.eye(4, 6, dtype=np.uint8), "highest value is 1: give it as bool"),
])
def test_a_pair_that_the_library_would_misread_is_a_value_error(prediction, mask, said):
    with pytest.raises(ValueError, match=said):
        check_pair(prediction, mask)


def test_no_pair_at_all_is_a_value_error(library):
    with pytest.raises(ValueError, match="nothing to score"):
        vsod_scores([])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prediction", [np.zeros, np.ones, lambda size: np.eye(*size)])
@pytest.mark.parametrize("objects", [slice(0, 0), slice(0, 20), slice(19, 20), slice(0, 1)], ids=["none", "everywhere", "last row", "first row"])
def test_constant_predictions_empty_masks_and_objects_at_the_border_give_finite_scores(library, prediction, objects):
    mask = np.zeros((20, 30), bool)
    mask[objects] = True
    scores = vsod_scores([((255 * prediction((20, 30))).astype(np.uint8), mask)])
    assert all(0 <= score < 1.01 for score in scores.values())


def test_a_perfect_map_and_its_inverse_have_the_best_and_the_worst_scores(library, mask):
    best, worst = (vsod_scores([(np.where(map_, 255, 0).astype(np.uint8), mask)]) for map_ in (mask, ~mask))
    assert [best[name] for name in ("mae", "max_f", "adaptive_f", "s")] == pytest.approx([0, 1, 1, 1])
    assert best["max_e"] == best["adaptive_e"] == pytest.approx(600 / 599) and best["e"] == pytest.approx(1, abs=0.01)
    assert [worst[name] for name in ("mae", "adaptive_f", "s", "adaptive_e")] == pytest.approx([1, 0, 0, 0], abs=1e-3)


def test_frames_are_averaged_and_masks_of_either_type_are_one(library, mask):
    predictions = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    predictions[:, 0, :2] = 0, 255                                         # each spans the range already
    scores = vsod_scores((prediction, mask) for prediction in predictions)
    assert scores == vsod_scores((prediction, mask.astype(np.uint8) * 255) for prediction in predictions)
    assert scores["mae"] == pytest.approx(np.abs(predictions / 255 - mask).mean())
    each = [vsod_scores([(prediction, mask)]) for prediction in predictions]
    assert all(scores[name] == pytest.approx(np.mean([one[name] for one in each])) for name in ("mae", "adaptive_f", "s", "e", "adaptive_e"))


def test_averages_are_those_of_the_library_over_all_frames(library, mask):
    predictions = np.random.default_rng(1).integers(0, 256, (4, 20, 30), dtype=np.uint8)
    measures = vsod_measures()
    for prediction in predictions:
        for measure in measures.values():
            measure.step(prediction, mask.astype(np.uint8) * 255)
    f, e = measures["f"].get_results()["f"], measures["e"].get_results()["em"]
    expected = {"mae": measures["mae"].get_results()["mae"], "max_f": f["dynamic"].max(), "adaptive_f": f["adaptive"], "s": measures["s"].get_results()["sm"],
                "e": e["curve"].mean(), "max_e": e["curve"].max(), "adaptive_e": e["adp"]}
    assert vsod_scores((prediction, mask) for prediction in predictions) == pytest.approx(expected, rel=1e-12)
