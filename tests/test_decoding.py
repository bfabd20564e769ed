import io
import math
import types
from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import MATRICES, give_matrix, grey_frames, write_video
from PIL import ExifTags, Image

from videos.decoding import is_video, promised_seconds, read_video, timed_frames, with_times


@pytest.mark.parametrize("codec, suffix", [("libx264", "mp4"), ("mpeg4", "avi"), ("libvpx-vp9", "webm"), ("libx265", "mkv")])
def test_a_video_file_gives_all_its_frames_in_rgb(tmp_path, codec, suffix):
    red = [np.full((48, 64, 3), (value, 0, 0), np.uint8) for value in (0, 100, 200)]
    frames = list(read_video(str(write_video(tmp_path / f"my clip ü.{suffix}", red, codec=codec))))
    assert [f.shape for f in frames] == [(48, 64, 3)] * 3
    assert abs(int(frames[2][8, 8, 0]) - 200) < 12 and frames[2][8, 8, 2] < 12


def test_every_frame_has_its_own_time_at_a_variable_rate(tmp_path):
    times = [0.0, 0.1, 0.14, 0.9, 1.3]
    path = write_video(tmp_path / "a.mp4", grey_frames(5), times)
    assert [seconds for seconds, _ in timed_frames(path)] == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize("start, end", [(0, 0.5), (0.4, 0.8), (0.41, math.inf), (1.56, math.inf), (0, math.inf)])
def test_a_part_of_a_video_holds_the_frames_between_its_times(tmp_path, start, end):
    path = write_video(tmp_path / "a.mp4", grey_frames(40, step=6))        # 25 frames a second
    part = list(timed_frames(path, start, end))
    expected = [number / 25 for number in range(40) if start <= number / 25 < end]
    assert [seconds for seconds, _ in part] == pytest.approx(expected) and part
    assert all(abs(int(frame[20, 20, 0]) - 6 * round(25 * seconds)) < 4 for seconds, frame in part)


@pytest.mark.parametrize("suffix", ["mp4", "ts", "h264", "avi", "mkv"])
@pytest.mark.parametrize("count, start", [(1, 0.0), (3, 0.04), (60, 1.0), (60, 2.3)])
def test_a_part_is_the_same_whether_a_file_has_an_index_or_not(tmp_path, suffix, count, start):
    """Of short videos, FFmpeg's threads decode everything before the first frame comes out; raw H.264 cannot be sought in at all."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / f"a.{suffix}", list(noise))
    whole = list(timed_frames(path))
    start += whole[0][0]
    part, expected = list(timed_frames(path, start)), [(seconds, frame) for seconds, frame in whole if seconds >= start]
    assert len(part) == len(expected) > 0 and all(a == b and np.array_equal(x, y) for (a, x), (b, y) in zip(part, expected))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "gif"])
@pytest.mark.parametrize("rate", [1, Fraction(1, 5)])
def test_a_slow_video_is_not_taken_for_a_truncated_one(tmp_path, suffix, rate):
    codec = {"gif": "gif", "avi": "mpeg4"}.get(suffix, "libx264")
    path = write_video(tmp_path / f"a.{suffix}", grey_frames(6, step=30), rate=rate, codec=codec)
    assert len(list(timed_frames(path))) == 6


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
@pytest.mark.parametrize("sound", [None, "aac"])
def test_a_video_that_begins_late_is_whole_and_its_times_count_from_its_beginning(tmp_path, suffix, sound):
    path = write_video(tmp_path / f"a.{suffix}", grey_frames(50, step=5), [5 + number / 25 for number in range(50)], sound=sound)
    times = [seconds for seconds, _ in timed_frames(path)]
    assert np.diff(times) == pytest.approx([0.04] * 49, abs=2e-3) and len(times) == 50


def test_names_with_colons_brackets_and_letters_of_any_language_are_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "12:30 [1] ü 日本.mp4", grey_frames(2))
    assert len(list(read_video("12:30 [1] ü 日本.mp4"))) == 2


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_turned_or_mirrored_video_is_brought_upright(tmp_path, matrix):
    """A phone that is held upright writes lying pictures, and a matrix into the track header (tkhd) that turns them; front cameras mirror."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255                                                # white in the upper left corner: a corner and a shape tell all eight
    frame = next(read_video(give_matrix(write_video(tmp_path / "a.mp4", [picture]), matrix)))
    assert frame.shape == ((64, 48, 3) if matrix[0] == 0 else (48, 64, 3))
    assert [(row, column) for row in (0, -1) for column in (0, -1) if frame[row, column].min() > 200] == [MATRICES[matrix]]


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0.4, -0.4, 1)])
def test_a_matrix_without_a_quarter_turn_leaves_the_picture(tmp_path, matrix):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255
    frame = next(read_video(give_matrix(write_video(tmp_path / "a.mp4", [picture]), matrix)))
    assert frame.shape == (48, 64, 3) and frame[0, 0].min() > 200


@pytest.mark.parametrize("tag, corner", [(3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_a_frame_with_exif_beside_its_matrix_is_brought_upright(tmp_path, tag, corner):
    """FFmpeg makes a matrix of EXIF; PyAV 18 does not know the kind of side data that EXIF is, and refuses to list any."""
    picture, tags = np.zeros((48, 64, 3), np.uint8), Image.Exif()
    picture[:16, :16], tags[ExifTags.Base.Orientation] = 255, tag
    Image.fromarray(picture).save(tmp_path / "a.jfif", "JPEG", exif=tags)
    frame = next(read_video(tmp_path / "a.jfif"))
    assert [(row, column) for row in (0, -1) for column in (0, -1) if frame[row, column].min() > 200] == [corner]


@pytest.mark.parametrize("stored, expected", [
    ([None, None, None], [0, 0.1, 0.2]), ([0.1, 0.3, 0.2, None, 0.9], [0.1, 0.3, 0.4, 0.5, 0.9]), ([0.5, 0.5, 0.6], [0.5, 0.6, 0.7]),
])
def test_times_that_are_missing_or_go_back_follow_the_constant_rate(stored, expected):
    """AVI keeps no times of pictures; those of H.264 in it come out of order."""
    frames = [types.SimpleNamespace(time=seconds) for seconds in stored]
    assert [seconds for seconds, _ in with_times(frames, types.SimpleNamespace(average_rate=10), 0.0)] == pytest.approx(expected)


def test_what_is_no_video_is_said_to_be_none(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no frame could be decoded from .*a.mp4 \(11 bytes\): .*not a video that FFmpeg knows"):
        list(read_video(tmp_path / "a.mp4"))
    with pytest.raises(ValueError, match="no frame could be decoded from .*empty.mp4"):
        list(read_video(tmp_path / "empty.mp4"))
    with pytest.raises(FileNotFoundError, match="no video file .*b.mp4: it does not exist"):
        list(read_video(tmp_path / "b.mp4"))
    with pytest.raises(FileNotFoundError, match="it is a folder"):
        list(read_video(tmp_path))


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match=r"a.wav holds no pictures \(streams: audio\)"):
        list(read_video(tmp_path / "a.wav"))


@pytest.mark.parametrize("suffix, sound", [("mp4", None), ("mp4", "aac"), ("mkv", None), ("mkv", "aac"), ("webm", None), ("avi", None)])
def test_a_truncated_video_is_an_error_after_its_whole_frames(tmp_path, suffix, sound):
    noise = list(np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8))
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(suffix, "libx264")
    path = write_video(tmp_path / f"a.{suffix}", noise, codec=codec, sound=sound, index_first=True)
    assert len(list(timed_frames(path))) == 40
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    frames = timed_frames(path)
    seen = []
    with pytest.raises(ValueError, match=rf"a.{suffix} (ends|is damaged) after \d+ frames"):  # depends on FFmpeg's version
        seen.extend(seconds for seconds, _ in frames)
    assert 10 < len(seen) < 30
    assert len(list(timed_frames(path, end=seen[9]))) == 9
    with pytest.raises(ValueError, match=r"(ends|is damaged) after"):      # however few frames are asked for
        list(timed_frames(path, start=seen[-1]))


@pytest.mark.parametrize("suffix, count, rate", [("mkv", 30, 10), ("mkv", 1, 25), ("mkv", 6, 1), ("flv", 30, 10), ("ts", 25, 25), ("mpg", 25, 25), ("asf", 30, 10), ("mp4", 30, 10)])
def test_a_whole_video_with_longer_sound_is_whole(tmp_path, suffix, count, rate):
    """Where a format keeps no duration of each track, FFmpeg gives the pictures that of the sound."""
    codec, sound = {"asf": ("mpeg4", "aac"), "mpg": ("mpeg1video", "mp2")}.get(suffix, ("libx264", "aac"))
    path = write_video(tmp_path / f"a.{suffix}", grey_frames(count), rate=rate, codec=codec, sound=sound, sound_lasts=21)
    assert len(list(timed_frames(path))) == count


def test_the_sound_tells_whether_a_file_is_cut_off_where_the_pictures_have_no_duration_of_their_own(tmp_path):
    noise = list(np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8))
    path = write_video(tmp_path / "a.mkv", noise, sound="aac", sound_lasts=5)
    content = path.read_bytes().replace(b"DURATION", b"DURATIOX")          # Matroska's tag of the track
    path.write_bytes(content)
    assert len(list(timed_frames(path))) == 40
    path.write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match=r"(ends|is damaged) after \d+ frames"):
        list(timed_frames(path))


@pytest.mark.parametrize("suffix, codec", [("flv", "libx264"), ("asf", "mpeg4")])
def test_a_truncated_video_of_formats_with_one_duration_is_an_error(tmp_path, suffix, codec):
    noise = list(np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8))
    path = write_video(tmp_path / f"a.{suffix}", noise, codec=codec, sound="aac")
    assert len(list(timed_frames(path))) == 40
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"(ends|is damaged) after \d+ frames"):
        list(timed_frames(path))


@pytest.mark.parametrize("tags, promised", [({"DURATION": "00:00:03.02"}, 3.02), ({"DURATION-eng": "00:01:03.5"}, 63.5), ({}, None), ({"DURATION": "soon"}, None)])
def test_matroskas_tag_of_the_pictures_counts_and_their_stream_duration_does_not(tags, promised):
    stream = types.SimpleNamespace(metadata=tags, disposition=0, duration=21023, time_base=Fraction(1, 1000), start_time=0)

    class Streams(list):
        video, best = (stream,), lambda self, kind: stream

    container = types.SimpleNamespace(format=types.SimpleNamespace(name="matroska,webm"), streams=Streams([stream, None]), start_time=0, duration=21023000)
    assert promised_seconds(container) == promised


@pytest.mark.parametrize("suffix, codec", [("mp3", "libmp3lame"), ("flac", "flac")])
def test_a_songs_cover_picture_is_no_video(tmp_path, suffix, codec):
    """The cover comes as a video stream of one picture, marked as attached."""
    cover = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(cover, "PNG")
    with av.open(str(tmp_path / f"a.{suffix}"), "w") as container:
        tone, picture = container.add_stream(codec, rate=44100), container.add_stream("png", rate=1)
        picture.width = picture.height = 32
        picture.pix_fmt, picture.disposition = "rgb24", av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.int16), format="s16", layout="mono")
        frame.sample_rate = 44100
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = picture, 0, 0, Fraction(1, 90000)
        container.mux(packet)
        for resampled in av.AudioResampler(tone.codec_context.format, "mono", 44100).resample(frame):
            container.mux(tone.encode(resampled))
        container.mux(tone.encode(None))
    with pytest.raises(ValueError, match=f"a.{suffix} holds no video, only a cover picture"):
        list(read_video(tmp_path / f"a.{suffix}"))
    assert not is_video(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix, codec", [("3g2", "libx264"), ("m2v", "mpeg2video"), ("h264", "libx264"), ("y4m", "rawvideo"), ("f4v", "libx264"), ("apng", "apng")])
def test_whether_a_file_of_another_suffix_is_a_video_is_told_by_its_content(tmp_path, suffix, codec):
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    if codec == "apng":
        Image.fromarray(picture).save(tmp_path / "a.apng", "PNG", save_all=True, append_images=[Image.fromarray(255 - picture)], duration=40)
    else:
        write_video(tmp_path / f"a.{suffix}", [picture, 255 - picture], codec=codec)
    assert is_video(tmp_path / f"a.{suffix}") and len(list(read_video(tmp_path / f"a.{suffix}"))) == 2


def test_text_pictures_sound_and_playlists_are_no_videos(tmp_path):
    (tmp_path / "notes.txt").write_text("FFmpeg draws text as pictures of a terminal.\n" * 50)
    (tmp_path / "a.json").write_text("{}")
    write_video(tmp_path / "b.mp4", grey_frames(2))
    (tmp_path / "list.txt").write_text("ffconcat version 1.0\nfile b.mp4\n")
    for suffix, form in (("ppm", "PPM"), ("tga", "TGA"), ("jfif", "JPEG"), ("photo", "PNG"), ("avif", "AVIF"), ("ico", "ICO")):
        if form in Image.registered_extensions().values():                 # of AVIF not everywhere
            Image.new("RGB", (64, 48), "red").save(tmp_path / f"a.{suffix}", form)
    (tmp_path / "b.mp4").rename(tmp_path / "b.clip")
    assert [path.name for path in tmp_path.iterdir() if is_video(path)] == ["b.clip"]


@pytest.mark.parametrize("content, said", [
    (b"", "it is empty"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "it is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "it is a web page .HTML., probably a download page"),
])
def test_what_was_fetched_in_the_place_of_a_video_is_named(tmp_path, content, said):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=f"no frame could be decoded from .*a.mp4: {said}"):
        list(read_video(tmp_path / "a.mp4"))


def test_a_video_whose_index_is_cut_off_is_an_interrupted_download(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey_frames(20))                # its index comes last
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="an interrupted download"):
        list(read_video(path))


def test_a_part_without_frames_is_said_to_have_none(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey_frames(5))
    with pytest.raises(ValueError, match=r"a.mp4 has no frame from second 3 to second 4; the last one that was seen is at second 0.16"):
        list(timed_frames(path, 3, 4))


@pytest.mark.parametrize("name, start", [("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(1000)), ("a.pdf", b"%PDF-1.4\n")])
def test_a_file_in_which_jpeg_pictures_lie_is_no_video(tmp_path, name, start):
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(picture, "JPEG")
    (tmp_path / name).write_bytes(start + 3 * picture.getvalue())
    assert not is_video(tmp_path / name)


def test_a_video_of_an_unknown_codec_is_an_error(tmp_path):
    path = write_video(tmp_path / "a.avi", grey_frames(4), codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ").replace(b"fmp4", b"zzzz"))
    with pytest.raises(ValueError, match="no frame could be decoded from .*a.avi: its pictures are of a kind"):
        list(read_video(path))
