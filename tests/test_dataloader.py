import itertools
import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_sets import SETTINGS, dataset, make_video, numbers_of, resized, shrink, write

import dataloader
from baselines.resizing import resize_frame
from dataloader import ClipDataset, EpochBatches, VideoBatches, VideoClips, clip_loader, crop, pan_and_zoom, readable
from videos.annotation import read_density
from videos.images import read_frame
from videos.resizing import resize_density
from videos.video import Video, find_videos


def test_an_unreadable_frame_is_an_error_with_its_path_or_a_counted_skip(tmp_path):
    folder = make_video(tmp_path / "train" / "0001", range(1, 5))
    path = folder / "images" / "0002.png"
    path.write_bytes(path.read_bytes()[:40])                               # an interrupted download
    for workers in (0, 1):                                                 # a loader process must not wrap it in its traceback
        with pytest.raises(ValueError, match=r"^cannot read image .*0002.png \(40 bytes\).*--skip-bad$"):
            list(readable(clip_loader(dataset(tmp_path, clip_len=4), 1, workers, shuffle=False)))
    batch, = readable(clip_loader(dataset(tmp_path, clip_len=4, skip_bad=True), 1, 0, shuffle=False))
    assert list(batch) == ["skipped"] and "0002.png" in batch["skipped"][0]


def test_maps_of_two_sizes_are_an_error(tmp_path):
    folder = make_video(tmp_path / "train" / "0001", [1])
    write(folder / "maps" / "0001.png", np.zeros((3, 4), np.uint8))
    assert re.search("differ in size.*3 x 4.*6 x 8", dataset(tmp_path, clip_len=1)[0, 0]["skipped"])


def test_videos_and_frames_come_in_natural_order_and_numbers_may_start_anywhere(tmp_path):
    for name in ("10", "9"):
        make_video(tmp_path / "train" / name, [9, 10, 11], name="shot_{}")
    videos = find_videos(tmp_path, "train")
    assert [v.name for v in videos] == ["9", "10"]
    assert [p.stem for p in videos[0].frames] == ["shot_9", "shot_10", "shot_11"]


@SETTINGS
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 4), st.integers(0, 3))
def test_a_clip_of_any_video_ends_at_an_annotated_frame_and_repeats_the_first_in_front(tmp_path_factory, length, clip_len, stride, epoch):
    root = tmp_path_factory.mktemp("lengths")
    make_video(root / "train" / "v", range(1, length + 1))
    sample = dataset(root, clip_len=clip_len, frame_stride=stride)[epoch, 0]
    last, span = int(sample["frame"]), (clip_len - 1) * stride + 1
    assert numbers_of(sample) == [max(1, last - back * stride) for back in range(clip_len)][::-1]
    assert span <= last <= length or (length < span and last == length)


def test_a_clip_ends_at_its_annotated_frame(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 21), annotated=[12])
    sample = dataset(tmp_path, clip_len=4)[0, 0]
    assert sample["frame"] == "0012" and sample["video"] == "0001"
    assert numbers_of(sample) == [9, 10, 11, 12]
    assert sample["density"].unique().tolist() == [torch.tensor(12 / 255).item()]
    assert sample["fixations"].nonzero().tolist() == [[0, 4]]
    assert (sample["clip"].shape, sample["density"].shape, sample["fixations"].dtype) == ((3, 4, 6, 8), (6, 8), torch.bool)


def test_frame_stride_leaves_frames_out_between(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 21), annotated=[12])
    assert numbers_of(dataset(tmp_path, clip_len=4, frame_stride=3)[0, 0]) == [3, 6, 9, 12]


def test_a_short_video_repeats_its_first_frame_in_front(tmp_path):
    make_video(tmp_path / "train" / "0001", [5, 6])
    assert numbers_of(dataset(tmp_path, clip_len=4)[0, 0]) == [5, 5, 5, 6]


def test_a_training_clip_decodes_its_frames_once_and_one_map_of_each_kind(tmp_path, monkeypatch):
    make_video(tmp_path / "train" / "0001", range(1, 21))
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: (opened.append(path.parent.name), real(path))[1])
    dataset(tmp_path, clip_len=8)[0, 0]
    assert sorted(opened) == ["fixation"] + ["images"] * 8 + ["maps"]


def test_validation_clips_end_at_every_nth_frame(tmp_path):
    make_video(tmp_path / "val" / "0001", range(1, 15))
    make_video(tmp_path / "val" / "0002", range(1, 3))
    clips = dataset(tmp_path, "val", clip_len=4, every=4)
    assert [clips[0, i]["frame"] for i in range(len(clips))] == ["0004", "0008", "0012", "0002"]


def test_maps_are_brought_to_the_given_size_and_kept_as_they_are_without_one(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 9))
    sample = dataset(tmp_path, clip_len=4, size=(3, 4))[0, 0]
    assert sample["density"].shape == sample["fixations"].shape == (3, 4)
    assert sample["fixations"].sum() == 1


def test_a_sample_depends_on_seed_epoch_and_index_only(tiny_set):
    def drawn(seed, epoch):
        clips = dataset(tiny_set, flip=True, clip_len=4, seed=seed)
        return [(clips[epoch, i]["frame"], clips[epoch, i]["clip"].sum().item()) for i in reversed(range(len(clips)))]
    assert drawn(0, 0) == drawn(0, 0)
    assert len({str(drawn(*key)) for key in ((0, 0), (0, 1), (1, 0))}) == 3


def test_flip_mirrors_clip_and_annotation_together_and_is_off_by_default(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 5), annotated=[4])
    plain, flipping = dataset(tmp_path, clip_len=4), dataset(tmp_path, clip_len=4, flip=True)
    assert all(plain[epoch, 0]["fixations"][4, 4] for epoch in range(8))
    columns = [flipping[epoch, 0]["fixations"][4].nonzero().item() for epoch in range(40)]
    assert set(columns) == {4, 3} and 8 < columns.count(3) < 32


# Order and batches

def test_the_sampler_shuffles_by_epoch_and_can_start_in_the_middle():
    sampler = EpochBatches(10, 1, shuffle=True, seed=3)
    first = list(sampler)
    assert sorted(index for (_, index), in first) == list(range(10))
    sampler.start = 4
    assert list(sampler) == first[4:] and len(sampler) == 6
    sampler.epoch, sampler.start = 1, 0
    assert [index for (_, index), in sampler] != [index for (_, index), in first]
    assert list(EpochBatches(3, 2, shuffle=False)) == [[(0, 0), (0, 1)], [(0, 2)]]


@pytest.mark.parametrize("length, batch_size, processes", [(10, 1, 2), (11, 2, 2), (5, 2, 4), (3, 2, 3)])
def test_processes_share_each_batch_of_the_epoch(length, batch_size, processes):
    whole = EpochBatches(length, batch_size * processes, shuffle=True, seed=1)
    shares = [EpochBatches(length, batch_size, shuffle=True, seed=1, rank=n, world_size=processes) for n in range(processes)]
    whole.epoch, whole.start = 4, 1
    for share in shares:
        share.epoch, share.start = 4, 1
        assert len(share) == len(whole) and all(len(batch) <= batch_size for batch in share)
    for together, *parts in zip(whole, *shares):
        assert sorted(together) == sorted(item for part in parts for item in part)


def test_worker_processes_give_the_same_batches_as_none(tiny_set):
    def batches(workers):
        return [(b["video"], b["frame"], b["clip"].sum().item()) for b in clip_loader(dataset(tiny_set, clip_len=4), 2, workers, shuffle=True)]
    assert batches(0) == batches(1)


def dies(frame):
    """Kills the process that brings frame 3 to size, as a decoder that crashes would."""
    if frame[0, 0, 0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return shrink(frame)


def test_the_death_of_a_loader_process_is_reported_with_the_file_it_read(tmp_path):
    make_video(tmp_path / "train" / "ünder way", range(1, 6))
    loader = clip_loader(ClipDataset(find_videos(tmp_path, "train"), dies, clip_len=4, every=4), 1, 1, shuffle=False)
    with pytest.raises(ChildProcessError, match=r"died while it read .*ünder way/images/0003.png: DataLoader worker "), dataloader.explain_worker_deaths(loader):
        list(readable(loader))
    with pytest.raises(RuntimeError, match="^something else$"), dataloader.explain_worker_deaths(loader):
        raise RuntimeError("something else")


# Clips of a video one after the other

def video_clips(videos, **options):
    prepare = lambda frame: torch.from_numpy(frame[:4, :6].copy()).permute(2, 0, 1)
    return VideoClips(videos, prepare, 10, (4, 6), **options)


def test_a_videos_clips_follow_each_other_and_the_last_one_is_shorter(tiny_set):
    videos = find_videos(tiny_set, "train")
    clips = video_clips(videos)
    first = [clips[0, index] for index in range(-(-len(videos[0].frames) // 10))]
    assert [clip["clip"].shape[1] for clip in first] == [10] * (len(videos[0].frames) // 10) + [len(videos[0].frames) % 10]
    assert [name for clip in first for name in clip["frame"]] == [path.stem for path in videos[0].frames] and {clip["number"] for clip in first} == {0}
    frame = read_frame(videos[0].frames[13])
    assert torch.equal(first[1]["clip"][:, 3], torch.from_numpy(frame[:4, :6].copy()).permute(2, 0, 1))
    assert torch.equal(first[1]["density"][3], torch.from_numpy(resize_density(read_density(videos[0].maps[videos[0].frames[13].stem]), (4, 6))))
    assert clips[0, len(first)]["number"] == 1


def test_frames_without_annotation_are_seen_and_not_compared_and_what_follows_the_last_annotated_clip_is_left_out(tiny_set):
    video = find_videos(tiny_set, "train")[0]
    kept = [path.stem for path in video.frames[:25] if path.stem not in {video.frames[3].stem, video.frames[12].stem}]
    partly = Video(video.name, video.frames, {stem: video.maps[stem] for stem in kept}, video.fixations)
    clips = video_clips([partly])
    assert len(clips) == 3 and clips[0, 0]["annotated"].tolist() == [n != 3 for n in range(10)]
    assert [len(clips[0, n]["density"]) for n in range(3)] == [9, 9, 5] and clips[0, 2]["clip"].shape[1] == 10
    none = Video(video.name, video.frames, {video.frames[15].stem: video.maps[video.frames[15].stem]}, video.fixations)
    assert video_clips([none])[0, 0]["density"].shape == (0, 4, 6)


def test_a_whole_video_is_mirrored_or_none_of_it(tiny_set):
    videos = find_videos(tiny_set, "train")
    plain, mirrored = video_clips(videos), video_clips(videos, flip=True)
    for epoch in range(6):
        turned = {}
        for index in range(len(plain)):
            straight, other = plain[epoch, index], mirrored[epoch, index]
            same = torch.equal(straight["clip"], other["clip"])
            assert same or (torch.equal(straight["clip"].flip(-1), other["clip"]) and torch.equal(straight["density"].flip(-1), other["density"]))
            turned.setdefault(straight["number"], set()).add(same)
        assert all(len(found) == 1 for found in turned.values())
    assert not all(torch.equal(plain[epoch, 0]["clip"], mirrored[epoch, 0]["clip"]) for epoch in range(6))


# Clips made of stills

def still(folder, spot=(30, 44), size=(60, 80), fixated=True):
    """A picture that is dark but for a bright spot, where its density and its only fixation are too."""
    picture = np.zeros((*size, 3), np.uint8)
    picture[spot[0] - 2:spot[0] + 3, spot[1] - 2:spot[1] + 3] = 255
    point = np.zeros(size, np.uint8)
    point[spot] = 255
    write(folder / "images" / "1.png", picture)
    write(folder / "maps" / "1.png", picture[..., 0])
    write(folder / "fixation" / "1.png", point if fixated else 0 * point)
    return find_videos(folder.parent, "all")


def moving(videos, zoom=0.4, **options):
    return VideoClips(videos, lambda frame: resize_frame(frame, (48, 64)), 5, (48, 64), zoom=zoom, **options)


def brightest(x):
    return np.array(np.unravel_index(int(x.argmax()), tuple(x.shape)))


def test_without_zoom_a_still_is_a_clip_of_one_frame(tmp_path):
    sample = moving(still(tmp_path / "a"), zoom=0.0)[0, 0]
    assert sample["clip"].shape == (3, 1, 48, 64) and sample["annotated"].tolist() == [True] and sample["frame"] == ["1"]


def test_a_still_pans_and_zooms_and_its_maps_stay_pinned_to_the_picture(tmp_path):
    clips, travelled = moving(still(tmp_path / "a")), []
    for epoch in range(8):
        sample = clips[epoch, 0]
        assert sample["clip"].shape == (3, 5, 48, 64) and sample["density"].shape == sample["fixations"].shape == (5, 48, 64)
        assert sample["annotated"].all() and sample["video"] == ["a"] * 5 and sample["frame"] == ["1"] * 5 and (sample["number"], sample["first"]) == (0, 0)
        centres = [[np.argwhere(x > x.max() / 2).mean(0) for x in (sample["clip"][0, t].numpy(), sample["density"][t].numpy(), sample["fixations"][t].numpy().astype(float))]
                   for t in range(5)]
        for picture, density, fixation in centres:
            assert np.abs(picture - density).max() < 1 and np.abs(picture - fixation).max() < 1.5
        steps = np.diff([picture for picture, *_ in centres], axis=0)
        assert np.abs(np.diff(steps, axis=0)).max() < 2                     # steadily, to a pixel
        travelled.append(np.abs(steps.sum(0)).max())
    assert max(travelled) > 3


def test_a_moving_still_is_a_function_of_seed_epoch_and_video(tmp_path):
    videos = still(tmp_path / "a")
    first, again, other = moving(videos)[3, 0], moving(videos)[3, 0], moving(videos, seed=1)[3, 0]
    assert torch.equal(first["clip"], again["clip"]) and torch.equal(first["density"], again["density"]) and not torch.equal(first["clip"], other["clip"])
    assert not torch.equal(first["clip"], moving(videos)[4, 0]["clip"])


def test_a_moving_still_is_mirrored_with_its_maps(tmp_path):
    videos = still(tmp_path / "a")
    plain, mirrored = moving(videos), moving(videos, flip=True)
    same = [torch.equal(plain[epoch, 0]["clip"], mirrored[epoch, 0]["clip"]) for epoch in range(12)]
    assert any(same) and not all(same)
    for epoch in range(12):
        sample = mirrored[epoch, 0]
        assert np.abs(brightest(sample["fixations"][0].int()) - np.argwhere(sample["clip"][0, 0].numpy() > 127).mean(0)).max() < 1.5


def test_windows_hold_half_of_the_density_or_everything():
    corner = np.zeros((20, 30), np.float32)
    corner[0, 0] = 1
    rng = np.random.default_rng(0)
    for _ in range(50):
        windows = pan_and_zoom(corner, 3, 0.5, rng)
        assert windows.min() >= 0 and windows.max() <= 1 and (windows[:, 1] - windows[:, 0]).min() >= 0.5 - 1e-9
        assert crop(corner, windows[0]).sum() == crop(corner, windows[-1]).sum() == 1
        assert np.allclose(windows[1], (windows[0] + windows[2]) / 2)
    assert pan_and_zoom(np.zeros((2, 2), np.float32), 1, 0.5, rng).shape == (1, 2, 2)  # nobody looked
    for place in (0.0, 0.5, 1.0):
        assert crop(corner, np.full((2, 2), place)).shape == (1, 1)


def test_videos_do_not_pan_and_zoom(tiny_set):
    videos = find_videos(tiny_set, "train")
    assert torch.equal(video_clips(videos)[0, 0]["clip"], video_clips(videos, zoom=0.4)[0, 0]["clip"])


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_each_process_takes_videos_of_its_own_whole_and_in_order(processes):
    lengths = [3, 1, 4, 2]
    clips = [[10 * video + clip for clip in range(length)] for video, length in enumerate(lengths)]
    shares = [VideoBatches(clips, True, 0, process, processes) for process in range(processes)]
    for share in shares:
        share.epoch = 5
    taken = [list(share) for share in shares]
    assert len({len(batches) for batches in taken}) == 1 and all(len(share) == len(batches) for share, batches in zip(shares, taken))
    indices = [[index for batch in batches for _, index in batch] for batches in taken]
    assert sorted(itertools.chain(*indices)) == sorted(itertools.chain(*clips))
    for own in indices:
        videos = [index // 10 for index in own]
        assert own == [clip for video in dict.fromkeys(videos) for clip in clips[video]]
    for share, batches in zip(shares, taken):
        share.start = 2
        assert list(share) == batches[2:]


def test_videos_come_in_another_order_in_each_epoch():
    batches = VideoBatches([[number] for number in range(20)], True, 0)
    orders = []
    for epoch in (0, 1, 0):
        batches.epoch = epoch
        orders.append([index for (_, index), in batches])
    assert orders[0] == orders[2] != orders[1] and sorted(orders[1]) == list(range(20))


def test_clips_that_cannot_be_read_are_left_out_or_raised(tiny_set, tmp_path):
    shutil.copytree(tiny_set, tmp_path / "set")
    videos = find_videos(tmp_path / "set", "train")
    videos[0].frames[12].write_bytes(b"half a picture")
    loader = clip_loader(video_clips(videos, skip_bad=True), 1, 0, shuffle=False)
    batches = list(readable(loader))
    assert ["clip" in batch for batch in batches[:3]] == [True, False, True] and len(batches[1]["skipped"]) == 1
    with pytest.raises(ValueError, match="To go on without such clips: --skip-bad"):
        list(readable(clip_loader(video_clips(videos), 1, 0, shuffle=False)))


def test_a_loader_draws_nothing_from_trainings_random_numbers(tiny_set):
    loader = clip_loader(dataset(tiny_set, clip_len=2), 1, 0, shuffle=True)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(before, torch.get_rng_state())


# Frames with flow, and masks

class Grey:
    """Pictures of flow whose level is the frame's index."""

    def pictures(self, frames):
        return [np.full((40, 64, 3), index, np.uint8) for index in range(len(frames))]


def test_every_frame_with_a_mask_is_an_item_of_one_frame_its_flow_and_its_mask_at_the_networks_size(vsod_set):
    videos = find_videos(vsod_set, "TrainSet_Video", annotation="mask")
    frames = ClipDataset(videos, resized, 1, size=(10, 16), every=1, flow=Grey(), masks=True)
    assert len(frames) == sum(len(video.masked()) for video in videos) == 18
    sample = frames[0, 3]
    assert sample["clip"].shape == sample["flow"].shape == (3, 1, 10, 16) and (sample["flow"] == 3).all() and "fixations" not in sample
    assert sample["density"].shape == (10, 16) and 0 <= sample["density"].min() and 0.5 < sample["density"].max() <= 1
    mask = np.array(Image.open(videos[0].masks[videos[0].frames[3].stem]).resize((16, 10), Image.Resampling.BILINEAR)) / 255
    assert np.allclose(sample["density"], mask, atol=1e-6)


def test_a_clip_of_several_frames_has_the_flow_of_each(vsod_set):
    videos = find_videos(vsod_set, "TestSet/sample", annotation="mask")
    groups = ClipDataset(videos, resized, 5, every=5, flow=Grey(), masks=True)
    assert groups[0, 0]["flow"][0, :, 0, 0].tolist() == [0, 1, 2, 3, 4] and groups[0, 0]["frame"] == "00004" and groups[0, 0]["density"].shape == (40, 64)


@pytest.mark.parametrize("good, filled", [(1, 5), (3, 5), (5, 5), (7, 10)])
def test_a_batch_is_filled_up_to_whole_groups_with_its_own_samples(vsod_set, good, filled):
    videos = find_videos(vsod_set, "TrainSet_Video", annotation="mask")
    frames = ClipDataset(videos, resized, 1, size=(10, 16), every=1, masks=True, group=5)
    batch = frames.collate([frames[0, index] for index in range(good)] + [{"skipped": "why"}])
    assert len(batch["density"]) == len(batch["clip"]) == filled and batch["skipped"] == ["why"]
    assert batch["frame"] == [f"{index % good:05d}".join(["s001_", ""]) for index in range(filled)]


def test_a_batch_of_nothing_stays_empty(vsod_set):
    frames = ClipDataset(find_videos(vsod_set, "TrainSet_Video", annotation="mask"), resized, 1, size=(10, 16), every=1, masks=True, group=5)
    assert frames.collate([{"skipped": "why"}]) == {"skipped": ["why"]}


def test_pictures_of_flow_cannot_be_mirrored(vsod_set):
    with pytest.raises(ValueError, match=r"cannot be mirrored \(--flip\)"):
        ClipDataset(find_videos(vsod_set, "TrainSet_Video", annotation="mask"), resized, 1, flow=Grey(), masks=True, flip=True)
