import json

import av
import pytest
from conftest import grey_frames, write_video
from PIL import Image
from predict_runs import decoded, run

from prediction.sources import Source, find_sources


def test_a_folder_of_folders_is_taken_apart(tiny_set):
    sources = find_sources([str(tiny_set / "val")])
    assert [source.name for source in sources] == sorted(p.name for p in (tiny_set / "val").iterdir())


def test_a_folder_of_videos_and_a_pattern_give_a_source_each_in_natural_order(tmp_path):
    for name in ("b10.mp4", "b9.MOV", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert [s.path.name for s in find_sources([str(tmp_path)])] == ["b9.MOV", "b10.mp4"]
    assert [s.path.name for s in find_sources([f"{tmp_path}/b*", str(tmp_path / "b9.MOV")])] == ["b9.MOV", "b10.mp4"]  # each once
    assert [s.path.name for s in find_sources([f"{tmp_path}/none*.mp4"])] == ["none*.mp4"]  # then said to be missing


def test_a_folder_of_videos_is_taken_by_content_and_what_is_left_out_is_named(tmp_path, capsys):
    for name, codec in (("a.3g2", "libx264"), ("b.h264", "libx264"), ("c.mp4", "libx264")):
        write_video(tmp_path / name, grey_frames(2), codec=codec)
    assert [s.path.name for s in find_sources([str(tmp_path)])] == ["a.3g2", "b.h264", "c.mp4"] and not capsys.readouterr().out
    (tmp_path / "c.mp4").unlink()                                          # none has a known suffix
    for name in ("notes.txt", "song.mp3"):
        (tmp_path / name).write_bytes(b"no video")
    assert [s.path.name for s in find_sources([str(tmp_path)])] == ["a.3g2", "b.h264"]
    assert "left out, as no video: 2 of 4 (notes.txt, song.mp3)" in capsys.readouterr().out


def test_a_video_of_an_unlisted_suffix_among_pictures_is_not_passed_over(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "0001.png")
    (tmp_path / "notes.txt").write_text("of the frames")
    assert [s.path for s in find_sources([str(tmp_path)])] == [tmp_path]
    write_video(tmp_path / "a.3g2", grey_frames(2))
    with pytest.raises(ValueError, match="holds pictures and videos, a.3g2 for one: name the videos"):
        find_sources([str(tmp_path)])


def test_pictures_among_videos_are_not_taken_for_a_video_of_their_own(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "notes").mkdir()
    assert [s.path.name for s in find_sources([str(tmp_path)])] == ["a.mp4"]
    Image.new("L", (8, 8)).save(tmp_path / "poster.jpg")
    with pytest.raises(ValueError, match="holds pictures and videos, a.mp4 for one: name the videos"):
        find_sources([str(tmp_path)])


@pytest.mark.parametrize("make, said", [
    (lambda path: None, "no input .*thing: it does not exist"), (lambda path: path.mkdir(), "no frames in .*thing"), (lambda path: path.write_bytes(b"text"), "no frame could be decoded from .*thing"),
])
def test_a_wrong_input_is_an_error(tmp_path, recsalnet_file, make, said):
    make(tmp_path / "thing")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        run(tmp_path / "thing", "--out", tmp_path / "maps", "--weights", recsalnet_file, "--device", "cpu")


@pytest.mark.parametrize("content, said", [(b"", "it is empty"), (b"version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer"), (b"damaged", "cannot identify")])
def test_what_is_no_picture_is_not_called_a_single_image(tmp_path, content, said):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read image .*a.png .*: {said}"):
        Source(tmp_path / "a.png").check()


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("stills", [False, True])
def test_several_pictures_in_one_file_are_a_video_for_every_network(tmp_path, recsalnet_file, stsmaxnet_file, suffix, stills):
    first, *others = [Image.new("RGB", (62, 48), (level, 0, 0)) for level in (0, 80, 160)]
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others, **({} if suffix == "tif" else {"duration": [100, 300, 200]}))
    network = ("--model", "stsmaxnet", "--weights", stsmaxnet_file) if stills else ("--weights", recsalnet_file)
    run(tmp_path / f"a.{suffix}", *network, "--device", "cpu", "--out", tmp_path / "out", "--save", "png", "overlay", "--fps", "10")
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir()) == ["0001.png", "0002.png", "0003.png"]
    times = [0, 0.1, 0.2] if suffix == "tif" else [0, 0.1, 0.4]
    assert list(json.loads((tmp_path / "out" / "a.json").read_text())["frames"].values()) == pytest.approx(times)
    assert [frame.time for frame in decoded(tmp_path / "out" / "a_overlay.mp4")] == pytest.approx(times, abs=2e-3)
    with av.open(str(tmp_path / "out" / "a_overlay.mp4")) as container:    # the last picture stands its own time
        assert float(container.duration / av.time_base) == pytest.approx(0.3 if suffix == "tif" else 0.6, abs=0.01)


def test_a_single_image_is_refused(tmp_path, recsalnet_file):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png is a single image"):
        run(tmp_path / "a.png", "--out", tmp_path / "maps", "--weights", recsalnet_file, "--device", "cpu")
