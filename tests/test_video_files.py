import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading
import urllib.parse
from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import MATRICES, give_matrix, grey_frames, write_video
from PIL import Image
from predict_runs import decoded, run

from prediction.sources import Source
from videos.decoding import orientation
from videos.images import Orientation


def test_an_overlay_keeps_times_sound_and_shape_and_is_h264(tmp_path, recsalnet_file, clip):
    run(clip, "--out", tmp_path, "--weights", recsalnet_file, "--device", "cpu", "--save", "overlay")
    path = tmp_path / f"{clip.stem}_overlay.mp4"
    assert [frame.time for frame in decoded(path)] == pytest.approx([frame.time for frame in decoded(clip)], abs=2e-3)
    with av.open(str(path)) as container, av.open(str(clip)) as source:
        stream, original = container.streams.video[0], source.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == pytest.approx(float(original.duration * original.time_base), abs=2e-3)
    sounds = [np.concatenate([frame.to_ndarray()[0] for frame in decoded(p, "audio")]) for p in (path, clip)]
    assert abs(len(sounds[0]) - len(sounds[1])) <= 2048 and abs(sounds[0]).max() > 0.5


@pytest.mark.parametrize("matrix", MATRICES)
def test_outputs_have_the_orientation_and_the_pixels_of_a_player(tmp_path, recsalnet_file, matrix):
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:24, :48] = 255
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.codec_context.sample_aspect_ratio = 48, 96, "yuv420p", Fraction(4, 3)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    run(give_matrix(tmp_path / "a.mp4", matrix), "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--save", "png", "overlay", "map-video")
    swapped, (row, column) = matrix[0] == 0, MATRICES[matrix]
    assert Image.open(tmp_path / "out" / "a" / "0001.png").size == ((48, 96) if swapped else (96, 48))
    for kind in ("overlay", "map"):
        frame = decoded(tmp_path / "out" / f"a_{kind}.mp4")[0]
        assert (frame.height, frame.width) == ((96, 48) if swapped else (48, 96)) and orientation(frame) == Orientation()
        with av.open(str(tmp_path / "out" / f"a_{kind}.mp4")) as container:
            assert container.streams.video[0].sample_aspect_ratio == (Fraction(3, 4) if swapped else Fraction(4, 3))
    shown = next(frame for _, _, frame in Source(tmp_path / "a.mp4").frames())
    assert [(r, c) for r in (0, -1) for c in (0, -1) if shown[r, c].min() > 200] == [(row, column)]


def test_a_part_of_a_video_takes_its_part_of_the_sound(tmp_path, recsalnet_file):
    clip = write_video(tmp_path / "a.mp4", grey_frames(50), sound="aac")    # two seconds
    run(clip, "--out", tmp_path, "--weights", recsalnet_file, "--device", "cpu", "--save", "overlay", "--start", "0.5", "--end", "00:01", "--every", "4")
    path = tmp_path / "a_overlay.mp4"
    assert [frame.time for frame in decoded(path)] == pytest.approx([0.02, 0.18, 0.34], abs=2e-3)  # from the frame at 0.52 on
    assert sum(frame.samples for frame in decoded(path, "audio")) / 44100 == pytest.approx(0.5, abs=0.06)
    assert list(json.loads((tmp_path / "a.json").read_text())["frames"]) == ["0001", "0005", "0009"]


def test_sound_that_browsers_do_not_play_in_mp4_is_left_out_and_said_to_be(tmp_path, recsalnet_file, capsys):
    clip = write_video(tmp_path / "a.avi", grey_frames(5), codec="mpeg4", sound="pcm_s16le")
    run(clip, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--save", "overlay")
    assert "its sound (pcm_s16le) is left out" in capsys.readouterr().out
    with av.open(str(tmp_path / "out" / "a_overlay.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_longer_sound_counts_neither_for_the_bar_nor_for_how_long_the_last_picture_stands(tmp_path, recsalnet_file):
    path = write_video(tmp_path / "a.mkv", grey_frames(10), rate=10, sound="aac", sound_lasts=5)
    assert Source(path).expected_frames() == pytest.approx(10, abs=1) and Source(path, start=0.5).expected_frames() == pytest.approx(5, abs=1)
    run(path, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--save", "overlay", "--every", "5")
    with av.open(str(tmp_path / "out" / "a_overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("flags, seconds", [(("--every", "10"), 1.6), (("--every", "10", "--end", "1.5"), 1.5), (("--every", "10", "--start", "0.4"), 1.2)])
def test_the_last_picture_stands_until_the_video_ends(tmp_path, recsalnet_file, monkeypatch, flags, seconds):
    write_video(tmp_path / "12:30.mp4", grey_frames(40))
    monkeypatch.chdir(tmp_path)                                            # FFmpeg would take "12" for a protocol
    run("12:30.mp4", "--out", ".", "--weights", recsalnet_file, "--device", "cpu", "--save", "map-video", *flags)
    with av.open(str(tmp_path / "12:30_map.mp4")) as container:
        assert float(container.duration / av.time_base) == pytest.approx(seconds, abs=0.01)


def test_a_folder_of_frames_makes_a_video_of_its_length(tmp_path, recsalnet_file):
    (tmp_path / "frames").mkdir()
    for number in range(5):
        Image.new("RGB", (40, 30), (90, 90, 90)).save(tmp_path / "frames" / f"{number}.png")
    run(tmp_path / "frames", "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--save", "overlay", "--fps", "10", "--every", "2")
    with av.open(str(tmp_path / "out" / "frames_overlay.mp4")) as container:
        assert float(container.duration / av.time_base) == pytest.approx(0.5, abs=0.01)


def test_odd_sizes_and_changing_ones_fit_into_a_video(tmp_path, recsalnet_file):
    (tmp_path / "frames").mkdir()
    for number, size in enumerate([(47, 33), (47, 33), (60, 80)]):
        Image.new("RGB", size[::-1], (90, 90, 90)).save(tmp_path / "frames" / f"{number}.png")
    run(tmp_path / "frames", "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--save", "overlay", "--fps", "10")
    frames = decoded(tmp_path / "out" / "frames_overlay.mp4")
    assert [(frame.height, frame.width) for frame in frames] == [(48, 34)] * 3 and [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2])


PAGE = """<video muted src="FILE"></video><script>
    const video = document.querySelector("video"), say = text => fetch("/said?" + encodeURIComponent(text));
    video.onerror = () => say("error " + video.error.message);
    video.onended = () => say(`played ${video.videoWidth} x ${video.videoHeight} to ${video.currentTime.toFixed(1)}`);
    video.play();
</script>"""


def test_an_overlay_plays_in_a_browser(tmp_path, recsalnet_file, clip):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    run(clip, "--out", tmp_path, "--weights", recsalnet_file, "--device", "cpu", "--save", "overlay")
    (tmp_path / "page.html").write_text(PAGE.replace("FILE", urllib.parse.quote(f"{clip.stem}_overlay.mp4")), encoding="utf-8")
    said = queue.Queue()

    class Pages(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/said?"):
                said.put(urllib.parse.unquote(self.path[6:]))
            super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ("--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync "
             "--autoplay-policy=no-user-gesture-required --remote-debugging-port=0").split()
    shown = subprocess.Popen([browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"http://127.0.0.1:{server.server_port}/page.html"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert said.get(timeout=60) == "played 62 x 48 to 0.5"
    finally:
        shown.kill()
        shown.wait()
        server.shutdown()
