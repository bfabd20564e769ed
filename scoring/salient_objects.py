"""The measures of salient-object detection, by the library pysodmetrics: maps against masks."""
from collections.abc import Iterable

import numpy as np

# Short names, for files -> names in tables, in the order of tables.
VSOD_LABELS = {"mae": "MAE", "max_f": "max F", "adaptive_f": "adaptive F", "s": "S", "e": "mean E", "max_e": "max E",
               "adaptive_e": "adaptive E"}


def vsod_scores(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Score maps against masks, averaged over all frames alike, whatever their video.

    Args:
        pairs: for each frame the prediction, (H, W) uint8, and the mask, (H, W), bool or uint8 with objects above 128.

    Returns:
        As `vsod_average`.

    Raises:
        ModuleNotFoundError, ValueError: as `vsod_frame`; or there is no pair.
    """
    return vsod_average([vsod_frame(prediction, mask) for prediction, mask in pairs])


def vsod_frame(prediction: np.ndarray, mask: np.ndarray) -> dict[str, float | np.ndarray]:
    """Score a map against its mask, as pysodmetrics does, which stretches the map to [0, 1] first (not a constant one).

    Where the mask is empty, F is 0, S is 1 minus the prediction's mean, and E the share of pixels left empty. At the
    adaptive threshold, twice the map's mean, a map of zeros is all object.

    Args:
        prediction: (H, W) uint8.
        mask: (H, W), bool or uint8 with objects above 128.

    Returns:
        The measures of this frame alone, as `vsod_average`; and "f_curve", "e_curve", (256,) each, F and E at every
        threshold.

    Raises:
        ModuleNotFoundError: pysodmetrics is not installed.
        ValueError: the shape or type of one of the two is not as above.

    Source: Perazzi et al. 2012 (MAE), Achanta et al. 2009 (F), Fan et al. 2017 (S), Fan et al. 2018 (E).
    """
    measures = vsod_measures()
    check_pair(prediction, mask)
    levels = mask.astype(np.uint8) * 255 if mask.dtype == bool else mask
    for measure in measures.values():
        measure.step(prediction, levels)
    f, e = measures["f"].get_results()["f"], measures["e"].get_results()["em"]
    row = {"mae": float(measures["mae"].get_results()["mae"]), "s": float(measures["s"].get_results()["sm"]),
           "adaptive_f": float(f["adaptive"]), "adaptive_e": float(e["adp"]),
           "f_curve": f["dynamic"], "e_curve": e["curve"]}
    return {**row, **vsod_average([row])}


def vsod_average(rows: list[dict]) -> dict[str, float]:
    """Average the rows of `vsod_frame` as the library does: F and E first at each threshold, then their maxima.

    Returns:
        mae: mean absolute error, lower is better; of the others higher is.
        max_f, adaptive_f: F-measure (beta^2 = 0.3): the mean curve's maximum over 256 thresholds, and at twice each
        map's mean.
        s: S-measure (alpha = 0.5).
        e, max_e, adaptive_e: E-measure: the mean curve's mean, its maximum, and at twice each map's mean. The library
        divides by one pixel less than there are: a perfect map scores a little above 1.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("there is nothing to score: no pair of a prediction and a mask was given")
    means = {name: np.mean([row[name] for row in rows], axis=0)
             for name in ("mae", "s", "adaptive_f", "adaptive_e", "f_curve", "e_curve")}
    f, e = means.pop("f_curve"), means.pop("e_curve")
    scores = {**means, "max_f": f.max(), "e": e.mean(), "max_e": e.max()}
    return {name: float(scores[name]) for name in VSOD_LABELS}


def vsod_measures() -> dict:
    """New accumulators of the library, one for each measure, that take pairs with `step`.

    Raises:
        ModuleNotFoundError: pysodmetrics is not installed; the message says how to install it.
    """
    try:  # not installed by default: it pins older NumPy and OpenCV
        import py_sod_metrics as library
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the measures of salient-object detection need packages of their own ({error}): "
                                  "pip install \".[vsod]\"") from error
    f, s = library.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3), library.Smeasure(alpha=0.5)
    # Of an object at the border, the library takes SSIM of empty quarters too: their weight is 0, but NaN would spread.
    ssim = s.ssim
    s.ssim = lambda prediction, mask: ssim(prediction, mask) if mask.size else 0.0
    return {"mae": library.MAE(), "f": library.FmeasureV2({"f": f}), "s": s, "e": library.Emeasure()}


def check_pair(prediction: np.ndarray, mask: np.ndarray) -> None:
    """Refuse, with a ValueError, pairs that the library would misread."""
    if prediction.dtype != np.uint8 or mask.dtype not in (bool, np.uint8):
        raise ValueError(f"a prediction must be uint8 and its mask bool or uint8, got {prediction.dtype} and "
                         f"{mask.dtype}")
    if prediction.ndim != 2 or prediction.shape != mask.shape or mask.size < 2:
        raise ValueError("a prediction and its mask must both be (H, W), of two pixels or more, "
                         f"got {prediction.shape} and {mask.shape}")
    if mask.dtype == np.uint8 and mask.max() == 1:
        raise ValueError("a mask of uint8 has objects above 128, but this one's highest value is 1: give it as bool")
