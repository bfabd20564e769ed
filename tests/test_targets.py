from score_runs import make_fixations

from scoring.targets import choose_frames
from videos.video import find_videos


def test_frames_are_sampled_over_all_videos_reproducibly_and_by_seed(tmp_path):
    for name in "ab":
        make_fixations(tmp_path / "val" / name, [(0, 0)] * 30)
    videos = find_videos(tmp_path, "val")
    chosen = [choose_frames(videos, 20, seed) for seed in (0, 0, 1)]
    assert [sum(map(len, c.values())) for c in chosen] == [20] * 3 and all(chosen[0].values())
    assert chosen[0] == chosen[1] != chosen[2]
    assert choose_frames(videos, 60, 0) == choose_frames(videos, None, 0) == {"a": list(range(30)), "b": list(range(30))}
