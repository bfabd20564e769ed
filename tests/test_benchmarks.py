import json

import pytest
import torch

from benchmarks import measures


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_plain_formulation_gives_our_results_and_every_measure_is_timed(tmp_path, capsys):
    flags = f"--size 30 40 --fixations 12 --repeats 1 --out {tmp_path / 'a.json'}".split()
    measures.main(measures.arguments().parse_args(flags))
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["measure"] for row in rows] == ["AUC-J", "SIM", "s-AUC", "CC", "NSS", "KL", "all six"]
    assert all(row["difference"] < (0.05 if row["measure"] in ("s-AUC", "all six") else 1e-6) for row in rows)  # s-AUC's splits are random there
    assert all(row["plain_ms"] > 0 and row["ours_ms"] > 0 for row in rows) and "| AUC-J |" in capsys.readouterr().out


def test_frames_are_measured_in_batches_and_settings_recorded(tmp_path):
    flags = f"--size 20 30 --fixations 5 --repeats 1 --batch-size 3 --threads 2 --out {tmp_path / 'a.json'}".split()
    measures.main(measures.arguments().parse_args(flags))
    assert json.loads((tmp_path / "a.json").read_text())["settings"] == {
        "size": [20, 30], "fixations": 5, "batch_size": 3, "repeats": 1, "threads": 2, "device": "cpu"}
    assert torch.get_num_threads() == 2
    assert measures.make_frames((20, 30), 5, 3)["fixations"].sum((1, 2)).tolist() == [5, 5, 5]
