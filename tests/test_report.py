import csv
import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from score_runs import density_as_maps, row, save_maps, score_files, score_small, small_set

from loss import MEASURES
from scoring.other_fixations import OtherFixations
from scoring.report import report, summarise
from videos.video import find_videos


def test_frames_where_a_measure_is_undefined_are_left_out_of_it_and_counted():
    summary = summarise([row("a", cc=1.0), row("a", cc=math.nan), row("b", cc=0.4)])
    assert summary["frame_average"]["cc"] == pytest.approx(0.7)
    assert summary["left_out"] == {**dict.fromkeys(MEASURES, 0), "cc": 1} and summary["frames"] == 3 and summary["videos"] == 2


def test_the_average_over_videos_weighs_a_long_video_like_a_short_one():
    summary = summarise([row("long", nss=1.0), row("long", nss=1.0), row("long", nss=1.0), row("short", nss=3.0)])
    assert summary["frame_average"]["nss"] == pytest.approx(1.5) and summary["video_average"]["nss"] == pytest.approx(2.0)


def test_a_measure_defined_nowhere_is_nan_and_null_in_json(tmp_path):
    details = {"notes": [], "protocol": "float", "protocol_means": "m", "data": "d", "split": "s", "methods": {"M": {}}}
    text = report([row("a", s_auc=math.nan)], tmp_path, details)
    assert "| 0.0000 | - | 0.0000 |" in text and "| M | left out of 1 frames | 0 | 0 | 1 | 0 | 0 | 0 |" in text
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]["M"]["frame_average"]["s_auc"] is None


def test_tables_hold_six_measures_both_averages_the_baseline_and_the_protocol(scored, weights_file):
    content = json.loads((scored / "scores.json").read_text())
    assert content["scores"].keys() == {"RecSalNet", "centre Gaussian"}
    for summary in content["scores"].values():
        for average in ("frame_average", "video_average"):
            assert summary[average].keys() == MEASURES.keys() and all(math.isfinite(v) for v in summary[average].values())
    assert content["scores"]["RecSalNet"]["left_out"]["nss"] == 2          # one frame without fixations in each video
    assert {"protocol", "seed", "device", "precision", "versions", "revision"} <= content.keys()
    about = content["methods"]["RecSalNet"]
    assert {"configuration", "weights", "parameters", "gflop", "frames_per_second"} <= about.keys() and about["frames_per_second"] > 0
    text = (scored / "scores.md").read_text()
    assert "AUC-J" in text and "centre Gaussian" in text and "2 videos" in text and "float32" in text and about["weights_sha256"] in text
    assert about["weights_sha256"] == hashlib.sha256(weights_file.read_bytes()).hexdigest()
    with (scored / "per_video.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["method"], r["video"]) for r in rows] == [(method, video) for method in ("RecSalNet", "centre Gaussian") for video in ("004", "005")]
    rows = rows[:2]
    assert all(0 < float(r["auc_j"]) < 1 for r in rows)
    assert sum(float(r["cc"]) for r in rows) / 2 == pytest.approx(content["scores"]["RecSalNet"]["video_average"]["cc"], abs=1e-5)


def test_the_other_frames_of_every_score_are_listed(scored, tiny_set):
    content = json.loads((scored / "scores.json").read_text())
    assert {video: len(frames) for video, frames in content["other_frames"].items()} == {"004": 36, "005": 38}
    videos = find_videos(tiny_set, "val")
    drawn = OtherFixations(videos, 0).draw(videos[0], 6)
    assert content["other_frames"]["004"][videos[0].frames[6].stem] == [f"005/{stem}" for _, stem in drawn]


def test_our_rows_and_the_published_ones_share_a_file_and_no_column(scored):
    ours, published = (scored / "scores.md").read_text().split("## Published")
    assert "hidden **test** set" in published and "not comparable" in published
    assert published.count("\n| ") == 21 and json.loads((scored / "scores.json").read_text())["dataset"] == "dhf1k"
    assert "| RecSal-Net | 0.913 | 0.414 | 0.728 | 0.547 | 3.135 |" in published and "0.913" not in ours


def test_how_annotation_was_read_and_what_is_doubtful_in_it_is_said_with_the_scores(no_figures, tmp_path, capsys):
    data = small_set(tmp_path / "set")
    maps = density_as_maps(data, tmp_path / "maps")
    whole = score_small(data, maps, tmp_path / "out")
    assert not any("Annotation" in note for note in whole["notes"])
    fixations = data / "val" / "a" / "fixation"
    for path in list(fixations.iterdir())[:3]:                             # as JPEG: the same fixations, but for what is said
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(data / "val" / "b" / "maps" / "0001.png")
    capsys.readouterr()
    scores = score_small(data, maps, tmp_path / "out")
    assert scores["scores"]["maps"]["frame_average"]["nss"] == whole["scores"]["maps"]["frame_average"]["nss"]
    notes = [note for note in scores["notes"] if "Annotation" in note]
    assert notes == ["**Annotation of 3 of 8 frames**: a fixation map in a format that changes levels (JPEG or WebP): fixated is what is at 128 of 255 or above.",
                     "**Annotation of 1 of 8 frames**: a density map of one value has no CC, and no KL or SIM if it is zero: left out there."]
    assert notes[0] in capsys.readouterr().out and notes[1] in (tmp_path / "out" / "a" / "scores.md").read_text()


def test_density_maps_alone_are_scored_by_what_is_defined(no_figures, tmp_path):
    data = small_set(tmp_path / "set")
    maps = density_as_maps(data, tmp_path / "maps")
    whole = score_small(data, maps, tmp_path / "out")["scores"]["maps"]
    shutil.rmtree(data / "val" / "a" / "fixation")
    mixed = score_small(data, maps, tmp_path / "out")
    assert mixed["scores"]["maps"]["left_out"] == {"auc_j": 4, "sim": 0, "s_auc": 4, "cc": 0, "nss": 4, "kl": 0}
    assert "**4 of 8 annotated frames have a density map alone**" in " ".join(mixed["notes"])
    shutil.rmtree(data / "val" / "b" / "fixation")
    alone = score_small(data, maps, tmp_path / "out")
    assert {name: alone["scores"]["maps"]["frame_average"][name] for name in MEASURES} == {
        name: whole["frame_average"][name] if name in ("cc", "sim", "kl") else None for name in MEASURES}
    assert "AUC-J, s-AUC and NSS are undefined there and left out" in " ".join(alone["notes"])


def test_constant_maps_are_counted_and_said(tiny_set, tmp_path, capsys):
    generator = np.random.default_rng(0)
    save_maps(tiny_set, tmp_path / "maps", lambda video, index: np.full((45, 80), 7, np.uint8) if index < 3 else generator.integers(0, 256, (45, 80), np.uint8))
    score_files(tiny_set, tmp_path / "maps", tmp_path, "--method", "mine")
    assert "Constant maps: 6 of 74.** CC, SIM, s-AUC and NSS are undefined there" in capsys.readouterr().out
    assert "mine" in json.loads((tmp_path / "tiny_val_mine_dhf1k" / "scores.json").read_text())["scores"]
