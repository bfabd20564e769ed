import numpy as np
from score_runs import make_fixations, union_of

from scoring.other_fixations import OtherFixations
from videos.video import find_videos


def test_other_fixations_come_from_other_videos_at_this_frames_size(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 3)
    make_fixations(tmp_path / "val" / "b", [(3, 7)] * 3, size=(4, 8))
    videos = find_videos(tmp_path, "val")
    others = OtherFixations(videos, seed=0)
    assert not others.same_video
    assert np.argwhere(union_of(others, videos[0], 0, (8, 16))).tolist() == [[7, 15]]  # the corner stays the corner
    assert np.argwhere(union_of(others, videos[1], 2)).tolist() == [[0, 0]]


def test_rescaled_coordinates_are_rounded_to_the_nearest_pixel(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)])
    make_fixations(tmp_path / "val" / "b", [(1, 5)])                       # of rows 0 to 3 and columns 0 to 7
    videos = find_videos(tmp_path, "val")
    assert np.argwhere(union_of(OtherFixations(videos, seed=0), videos[0], 0, (6, 11))).tolist() == [[2, 7]]  # 1.67 and 7.14


def test_ten_other_frames_are_drawn_reproducibly_and_by_seed(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)])
    make_fixations(tmp_path / "val" / "b", [(y, x) for y in range(4) for x in range(8)])
    videos = find_videos(tmp_path, "val")
    drawn = [OtherFixations(videos, seed).draw(videos[0], 0) for seed in (0, 0, 1)]
    assert [len(set(d)) for d in drawn] == [10, 10, 10] and {video for video, _ in drawn[0]} == {"b"}
    assert drawn[0] == drawn[1] and set(drawn[0]) != set(drawn[2])
    assert OtherFixations(videos, 0).union(drawn[0], (4, 8)).sum() == 10


def test_a_single_video_is_compared_with_its_own_other_frames(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, x) for x in range(5)])
    others = OtherFixations(videos := find_videos(tmp_path, "val"), seed=0)
    assert others.same_video
    assert np.argwhere(union_of(others, videos[0], 2))[:, 1].tolist() == [0, 1, 3, 4]
