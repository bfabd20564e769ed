import pytest

from loss import MEASURES
from scoring.published import PUBLISHED
from scoring.report import report
from videos.splits import DATASETS


def scores_md(tmp_path, dataset):
    details = {"notes": [], "protocol": "float", "protocol_means": "m", "data": "d", "split": "s", "methods": {"M": {}}, "dataset": dataset}
    report([{"method": "M", "video": "a", "frame": "1", **dict.fromkeys(MEASURES, 0.5)}], tmp_path, details)
    return (tmp_path / "scores.md").read_text()


@pytest.mark.parametrize("dataset", ["diem", "folder"])
def test_a_dataset_on_which_nothing_is_published_has_no_such_section(tmp_path, dataset):
    assert "Published" not in scores_md(tmp_path, dataset)


@pytest.mark.parametrize("dataset, source, row, foreign", [
    ("dhf1k", "hidden **test** set", "| UNISAL | 0.901 | 0.390 | 0.691 | 0.490 | 2.776 |", "3.901"),
    ("hollywood2", "as collected in RecSal-Net's README", "| UNISAL | 0.934 | 0.543 | 0.673 | 3.901 |", "2.776"),
    ("ucf-sports", "as collected in RecSal-Net's README", "| UNISAL | 0.918 | 0.523 | 0.644 | 3.381 |", "2.776"),
])
def test_each_dataset_has_its_own_table_below_ours(tmp_path, dataset, source, row, foreign):
    ours, published = scores_md(tmp_path, dataset).split("## Published")
    assert source in published and row in published and foreign not in published and row not in ours


@pytest.mark.parametrize("dataset, methods, rows", [
    ("dhf1k", 19, {"RecSal-Net": (0.913, 0.414, 0.728, 0.547, 3.135), "SalFoM (2024)": (0.922, 0.421, None, 0.569, 3.354),
                   "TMFI-Net": (0.915, 0.407, None, 0.546, 3.146), "THTD-Net": (0.915, 0.406, None, 0.548, 3.139),
                   "AAM (2026, split not said)": (0.919, 0.421, None, 0.563, 3.272)}),
    ("hollywood2", 16, {"DeepVS": (0.887, 0.356, 0.446, 2.313), "ECANet": (0.929, 0.526, 0.673, 3.380), "RecSal-Net": (0.938, 0.606, 0.737, 4.061),
                        "AAM (2026, split not said)": (0.944, 0.599, 0.742, 4.055)}),
    ("ucf-sports", 16, {"DeepVS": (0.870, 0.321, 0.405, 2.089), "STSANet": (0.936, 0.560, 0.705, 3.908), "RecSal-Net": (0.933, 0.557, 0.698, 3.769),
                        "AAM (2026, split not said)": (0.943, 0.584, 0.736, 3.892)}),
])
def test_published_scores_are_those_of_their_source(dataset, methods, rows):
    table = PUBLISHED[dataset]
    assert len(table.scores) == methods and {name: table.scores[name] for name in rows} == rows


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_tables_are_of_known_datasets_and_measures_and_in_their_range(dataset):
    table = PUBLISHED[dataset]
    assert dataset in DATASETS and set(table.measures) <= set(MEASURES)
    for scores in table.scores.values():
        by_name = dict(zip(table.measures, scores, strict=True))
        assert all(score is None or 0 < score < (5 if name == "nss" else 1) for name, score in by_name.items())


def test_a_score_that_is_not_published_is_a_dash(tmp_path):
    assert "| SalFoM (2024) | 0.922 | 0.421 | - | 0.569 | 3.354 |" in scores_md(tmp_path, "dhf1k")
