import numpy as np
import pytest
import scipy.io
from PIL import Image

from data import make_maps
from data.prepare_dhf1k import density_map
from videos.annotation import read_density
from videos.video import find_videos, open_video


def run(*flags):
    make_maps.main(make_maps.arguments().parse_args(list(map(str, flags))))


def by_hand(fixations):
    """fspecial('gaussian', 150, 20) and imfilter(.., 'replicate') written out: 74 rows and columns before a pixel, 75 after it."""
    offsets = np.arange(150) - 74.5
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets ** 2) / (2 * 20 ** 2))
    padded = np.pad(fixations.astype(float), ((74, 75), (74, 75)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (150, 150))
    density = np.einsum("hwij,ij->hw", windows, kernel / kernel.sum())
    return np.floor(255 * density / density.max() + 0.5).astype(np.uint8)


def fixated(size, *points):
    fixations = np.zeros(size, bool)
    for point in points:
        fixations[point] = True
    return fixations


@pytest.mark.parametrize("make", make_maps.GAUSSIANS.values())
def test_no_fixation_gives_an_empty_map(make):
    density = make(np.zeros((20, 30), bool))
    assert density.shape == (20, 30) and density.dtype == np.uint8 and not density.any()


@pytest.mark.parametrize("points", [[(0, 0)], [(10, 24)], [(3, 30), (19, 0), (19, 1)]])
def test_the_map_of_hollywood2_and_ucf_sports_is_that_of_the_formula(points):
    fixations = fixated((20, 31), *points)
    assert np.array_equal(make_maps.replicated_density_map(fixations), by_hand(fixations))


def test_a_gaussian_of_even_length_lies_half_a_pixel_beside_its_fixation():
    """exp(-0.5 (1.5 / 20)^2) / exp(-0.5 (0.5 / 20)^2) is 0.9975."""
    density = make_maps.replicated_density_map(fixated((300, 300), (150, 150)))
    assert density[148:152, 150].tolist() == density[150, 148:152].tolist() == [254, 255, 255, 254]


def test_a_fixation_at_the_border_counts_again_beyond_it_only_where_borders_are_replicated():
    fixations = fixated((200, 200), (0, 100), (150, 100))
    replicated, zero = make_maps.replicated_density_map(fixations), density_map(fixations)
    assert replicated[150, 100] == 10 and replicated[0, 100] == 255        # one weight of 0.02 to half of all of them
    assert zero[150, 100] == zero[0, 100] == 255


def make_set(root, suffix=".png", maps=()):
    for frame in (1, 2, 3):
        for kind in ("images", "fixation"):
            (root / "training" / "Kick-001" / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (31, 20)).save(root / "training" / "Kick-001" / "images" / f"Kick_001_{frame:03d}.png")
        fixations = fixated((20, 31), (frame, 5))
        target = root / "training" / "Kick-001" / "fixation" / f"Kick_001_{frame:03d}{suffix}"
        scipy.io.savemat(target, {"I": fixations.astype(np.uint8)}) if suffix == ".mat" else Image.fromarray(fixations).save(target)
    return root


@pytest.mark.parametrize("suffix", [".png", ".mat"])
@pytest.mark.parametrize("workers", [1, 2])
def test_maps_are_made_where_the_programs_find_them(tmp_path, suffix, workers, capsys):
    make_set(tmp_path, suffix)
    with pytest.raises(FileNotFoundError, match="no annotation"):
        find_videos(tmp_path, "training")
    run(tmp_path, "--gaussian", "ucf-sports", "--workers", workers)
    assert "3 density maps written, in 1 of 1 videos" in capsys.readouterr().out
    video, = find_videos(tmp_path, "training")
    for index, frame in enumerate(video.annotated(), start=1):
        stem = video.frames[frame].stem
        assert np.array_equal(np.round(255 * read_density(video.maps[stem])), by_hand(fixated((20, 31), (index, 5))))
    run(tmp_path, "--compare")
    out = capsys.readouterr().out
    assert "hollywood2: 3 frames, largest difference 0 of 255, mean 0.0000, 3 frames equal" in out
    assert "dhf1k: 3 frames, largest difference 0 " not in out


def test_a_split_and_processes_are_as_asked(tmp_path, monkeypatch):
    make_set(tmp_path)
    (tmp_path / "training").rename(tmp_path / "testing")
    make_set(tmp_path)
    asked = []
    monkeypatch.setattr(make_maps, "run_all", lambda calls, workers: asked.append((len(calls), workers)) or [0])
    run(tmp_path, "--gaussian", "dhf1k", "--split", "testing", "--workers", "3")
    run(tmp_path, "--gaussian", "dhf1k")
    assert asked == [(1, 3), (2, 1)]


def test_a_video_without_frames_and_maps_of_another_size_are_errors(tmp_path):
    make_set(tmp_path)
    (tmp_path / "training" / "Kick-001" / "maps").mkdir()
    Image.new("L", (3, 2)).save(tmp_path / "training" / "Kick-001" / "maps" / "Kick_001_001.png")
    with pytest.raises(ValueError, match="differ in size"):
        run(tmp_path, "--compare")
    (tmp_path / "training" / "Kick-002" / "fixation").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no frames of video Kick-002"):
        run(tmp_path, "--gaussian", "dhf1k")


def test_maps_that_are_there_are_left_unless_they_are_to_be_overwritten(tmp_path):
    make_set(tmp_path)
    maps = tmp_path / "training" / "Kick-001" / "maps"
    maps.mkdir()
    Image.new("L", (31, 20), 9).save(maps / "Kick_001_002.jpg")
    run(tmp_path, "--gaussian", "dhf1k")
    assert sorted(path.name for path in maps.iterdir()) == ["Kick_001_001.png", "Kick_001_002.jpg", "Kick_001_003.png"]
    run(tmp_path, "--gaussian", "dhf1k", "--overwrite", "--split", "training")
    assert sorted(path.name for path in maps.iterdir()) == ["Kick_001_001.png", "Kick_001_002.png", "Kick_001_003.png"]
    assert read_density(open_video(maps.parent).maps["Kick_001_002"])[2, 5] == 1


def test_a_folder_without_videos_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no videos in"):
        run(tmp_path, "--compare")
