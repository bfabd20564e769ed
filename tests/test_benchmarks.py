import json

from benchmarks import measures


def test_the_plain_formulation_gives_our_results_and_every_measure_is_timed(tmp_path, capsys):
    flags = f"--size 30 40 --fixations 12 --repeats 1 --out {tmp_path / 'a.json'}".split()
    measures.main(measures.arguments().parse_args(flags))
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["measure"] for row in rows] == ["AUC-J", "SIM", "s-AUC", "CC", "NSS", "KL", "all six"]
    assert all(row["difference"] < (0.05 if row["measure"] in ("s-AUC", "all six") else 1e-6) for row in rows)  # s-AUC's splits are random there
    assert all(row["plain_ms"] > 0 and row["ours_ms"] > 0 for row in rows) and "| AUC-J |" in capsys.readouterr().out
