import json
import math

import numpy as np
import pytest
from PIL import Image

from data import gaze_bounds
from data.prepare_dhf1k import density_map
from loss import MEASURES
from scoring.other_fixations import OtherFixations
from videos.video import find_videos

SIZE = (24, 32)
SIGMA = 0.032 * 32


def blurred(*points):
    """The density of fixations at (x, y), as prepare_gaze.py has it, float in [0, 1]."""
    counts = np.zeros(SIZE)
    for x, y in points:
        counts[y, x] += 1
    return density_map(counts, SIGMA).astype(float) / 255


def add(root, name, observers, *lists):
    """An image of the tree, with the (x, y) of each observer."""
    folder, stem = root / name, name.partition("-")[2]
    points = [(x, y, number) for number, of_one in enumerate(observers) for x, y in of_one]
    density = np.round(255 * blurred(*((x, y) for x, y, _ in points))).astype(np.uint8)
    for kind, picture in (("images", np.stack([density] * 3, axis=2)), ("maps", density)):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(picture).save(folder / kind / f"{stem}.png")
    (folder / "fixation").mkdir()
    (folder / "fixation" / f"{stem}.csv").write_text("x,y,observer\n" + "".join(f"{x}.5,{y}.5,{number}\n" for x, y, number in points))
    (folder / "annotation.json").write_text(json.dumps({"sigma": SIGMA}))
    for part in lists:
        with (root / f"{part}.txt").open("a") as file:
            file.write(f"{name}\n")


def bounds(root, capsys, *flags):
    """{(set, bound): {measure: value}} of the printed table, and its numbers of images."""
    gaze_bounds.main(gaze_bounds.arguments().parse_args(["--data", str(root), *flags]))
    header, _, *rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert header == ["set", "images", "predicted by", "AUC-J", "SIM", "s-AUC", "CC", "NSS", "KL"]
    return {(row[0], row[2]): dict(zip(MEASURES, map(float, row[3:]))) for row in rows}, {row[0]: int(row[1]) for row in rows}


@pytest.fixture
def density(tmp_path):
    Image.new("L", SIZE[::-1]).save(tmp_path / "density.png")
    return tmp_path / "density.png"


@pytest.mark.parametrize("text, found", [
    ("x,y,observer\n", "0 observers and 0 fixations"), ("x,y,observer\n1,1,0\n2,2,0\n", "1 observers and 0"), ("x,y\n1,1\n2,2\n", "0 observers and 2"),
    ("x,y,observer\n1,1,\n2,2, \n", "0 observers and 2"), ("x,y,observer\n1,1,0\n2,2,1\n3,3\n", "2 observers and 1"),
])
def test_points_that_do_not_tell_two_observers_have_no_halves(density, text, found):
    path = density.with_name("a.csv")
    path.write_text(text)
    with pytest.raises(ValueError, match=f"a.csv: expected fixations of two observers or more.*found {found}.*: leave"):
        gaze_bounds.halves(path, density, SIGMA, np.random.default_rng(0))


@pytest.mark.parametrize("text, said", [("x,observer\n1,0\n", "line 1: .*column y"), ("x,y,observer\n1,left,0\n", "line 2: .*two numbers"), ("x,y,observer\n1,24,0\n", "line 2: .*outside"),
                                        ("x,y,observer\n-1,1,0\n", "line 2: .*outside")])
def test_points_are_checked_as_those_of_any_fixation_file(density, text, said):
    path = density.with_name("a.csv")
    path.write_text(text)
    with pytest.raises(ValueError, match=f"a.csv, {said}"):
        gaze_bounds.halves(path, density, SIGMA, np.random.default_rng(0))


def test_the_gaussian_is_that_of_the_tree(tmp_path):
    add(tmp_path, "osie-1", [[(5, 5)], [(5, 5)]], "test")
    video, = find_videos(tmp_path, "test")
    assert gaze_bounds.sigma_of(video) == SIGMA
    (tmp_path / "osie-1/annotation.json").write_text("{}")
    with pytest.raises(ValueError, match="expected the sigma .*osie-1/annotation.json, found none: give the tree"):
        gaze_bounds.sigma_of(video)
    (tmp_path / "osie-1/annotation.json").unlink()
    with pytest.raises(ValueError, match="found none"):
        gaze_bounds.sigma_of(video)


def test_observers_are_split_whole_at_random_and_the_same_for_the_same_seed(density):
    path = density.with_name("a.csv")
    path.write_text(" x,y ,observer\n" + "".join(f"{3 * number},{y},{number}\n" for number in range(7) for y in (1, 1, 20)))
    splits = []
    for seed in (0, 0, 1, 2, 3):
        first, second = gaze_bounds.halves(path, density, SIGMA, np.random.default_rng(seed))
        columns = [set(np.nonzero(fixations.any(axis=0))[0].tolist()) for _, fixations in (first, second)]
        assert sorted(map(len, columns)) == [3, 4] and set.union(*columns) == {0, 3, 6, 9, 12, 15, 18}
        expected = blurred(*((column, y) for column in columns[0] for y in (1, 1, 20)))
        assert first[0].dtype == np.float32 and np.allclose(first[0], expected, atol=1e-6)
        splits.append(columns[0])
    assert splits[0] == splits[1] and len(set(map(frozenset, splits))) > 1


def test_two_observers_predict_each_other_as_the_measures_say(tmp_path, capsys):
    """Who looks at the same points is predicted perfectly; of two who look apart, each one's map is zero at the other's point."""
    same, apart = [[(5, 5), (20, 12)]] * 2, [[(5, 12)], [(25, 12)]]
    for number in (1, 2):
        add(tmp_path, f"osie-{number}", same, "test", "train")
        add(tmp_path, f"sun500-{number}", apart, "test")
    table, images = bounds(tmp_path, capsys)
    assert images == {"osie": 2, "sun500": 2}
    density = blurred((5, 5), (20, 12))
    perfect = table["osie", "half of the observers"]
    assert perfect["cc"] == perfect["sim"] == 1 and perfect["kl"] == 0
    expected = (density[[5, 12], [5, 20]] - density.mean()) / density.std(ddof=1)
    assert perfect["nss"] == pytest.approx(expected.mean(), abs=0.001)
    strangers, (one, other) = table["sun500", "half of the observers"], (blurred((5, 12)), blurred((25, 12)))
    assert strangers["sim"] == 0 and strangers["cc"] == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1], abs=0.001)
    assert strangers["nss"] == pytest.approx((one[12, 25] - one.mean()) / one.std(ddof=1), abs=0.001) and strangers["nss"] < 0


def test_the_prior_is_the_mean_of_the_training_maps_and_of_fit_where_val_is_scored(tmp_path, capsys):
    """In each list, two images that are looked at in one point, each in another list's: the prior of the other is zero there."""
    add(tmp_path, "osie-1", [[(5, 5)], [(5, 5)]], "train", "fit")
    add(tmp_path, "osie-2", [[(20, 18)], [(20, 18)]], "train", "val")
    add(tmp_path, "osie-3", [[(20, 18)], [(20, 18)]], "test")
    prior = gaze_bounds.centre_prior(find_videos(tmp_path, "train"))
    assert prior.shape == gaze_bounds.PRIOR_SIZE and prior.dtype == np.float32 and prior.max() == pytest.approx(0.5, abs=0.02)  # two peaks, at a half
    table, _ = bounds(tmp_path, capsys, "--split", "val")
    assert table["osie", "centre prior"]["sim"] == 0 and table["osie", "centre prior"]["nss"] < 0
    table, _ = bounds(tmp_path, capsys)
    assert table["osie", "centre prior"]["sim"] == pytest.approx(0.5, abs=0.05) and table["osie", "centre prior"]["nss"] > 1
    assert math.isnan(table["osie", "centre prior"]["s_auc"])              # one image: no others


def test_other_images_of_s_auc_are_those_of_test_py(tmp_path):
    for number in (1, 2, 3):
        add(tmp_path, f"osie-{number}", [[(5 * number, 5)], [(5, 5 * number)]], "test", "train", "osie-test")
    of_part, of_all = (find_videos(tmp_path, split) for split in ("osie-test", "test"))
    for video in of_all:
        assert OtherFixations(of_part, 0).draw(video, 0) == OtherFixations(of_all, 0).draw(video, 0)
