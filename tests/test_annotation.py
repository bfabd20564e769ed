"""Annotation from its files: what is read, what is refused, and what is said."""
import sys

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image
from small_sets import cut, write

from videos.annotation import (
    examine_density,
    examine_fixations,
    examine_mask,
    located_points,
    read_fixations,
    read_mask,
    read_prediction,
)
from videos.video import PROBLEMS

POINTS = np.zeros((12, 16), bool)                                          # three fixations, 1.6 % of the pixels
POINTS[2, 3] = POINTS[7, 7] = POINTS[11, 15] = True
OBJECT = np.zeros((12, 16), np.uint8)                                      # two objects, 1 and 2
OBJECT[2:6, 3:9], OBJECT[7:9, 10:14] = 1, 2
RAMP = np.linspace(0, 255, 12 * 16).astype(np.uint8).reshape(12, 16)
DAVIS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]                       # the palette of DAVIS 2017 begins so


def save(path, array, palette=None, **options):
    picture = Image.fromarray(np.asarray(array))
    if palette:
        picture.putpalette(palette)
    picture.save(path, **options)
    return path


def layers(colours, alpha):
    """Colours, one for all pixels or a grey picture, and an alpha channel, (H, W, 4) uint8."""
    grey = np.broadcast_to(np.asarray(colours, np.uint8)[..., None] if np.ndim(colours) == 2 else np.asarray(colours, np.uint8), (12, 16, 3))
    return np.concatenate([grey, np.asarray(alpha, np.uint8)[..., None]], axis=2)


def said(annotation):
    assert all(remark.kind in PROBLEMS for remark in annotation.remarks)
    return " / ".join(remark.finding or remark.reason for remark in annotation.remarks)


# Colour

COLOURED = {
    "jet": np.stack([RAMP, 255 - RAMP, 255 - abs(2 * RAMP.astype(int) - 255)], axis=2).astype(np.uint8),
    "a tint as pale as the colour map bone": np.stack([RAMP // 2, RAMP // 2, RAMP // 2 + RAMP // 8], axis=2),
    "red on black": np.stack([255 * POINTS, 0 * RAMP, 0 * RAMP], axis=2).astype(np.uint8),
}


@pytest.mark.parametrize("name", COLOURED)
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_annotation_and_predictions_in_colour_are_refused_with_what_to_do(tmp_path, name, suffix):
    path = save(tmp_path / f"a{suffix}", COLOURED[name])
    for read, kind in ((examine_density, "density map"), (examine_fixations, "fixation map"), (examine_mask, "mask"), (read_prediction, "map")):
        with pytest.raises(ValueError, match=f"a{suffix} is in colour: expected a grey {kind}.*save the {kind} itself"):
            read(path)


@pytest.mark.parametrize("quality", [5, 30, 95])
def test_a_grey_picture_is_grey_in_any_number_of_channels_and_in_jpeg(tmp_path, quality):
    noise = np.random.default_rng(0).integers(0, 256, (12, 16), np.uint8)
    grey = examine_density(save(tmp_path / "grey.jpg", noise, quality=quality))
    colour = examine_density(save(tmp_path / "rgb.jpg", np.stack([noise] * 3, axis=2), quality=quality))
    assert not grey.remarks and not colour.remarks and abs(grey.values - colour.values).max() <= 1 / 255
    for mode in ("RGB", "RGBA", "LA", "P"):
        Image.fromarray(noise).convert(mode).save(tmp_path / "same.png")
        assert np.array_equal(read_prediction(tmp_path / "same.png"), noise)


# Alpha

@pytest.mark.parametrize("colour", [0, 255, (255, 0, 0)])
def test_a_fixation_map_and_a_mask_that_live_in_alpha_alone_are_taken_from_there_and_that_is_said(tmp_path, colour):
    path = save(tmp_path / "a.png", layers(np.broadcast_to(colour, 3), 255 * POINTS))
    fixations, mask = examine_fixations(path), examine_mask(path)
    assert np.array_equal(fixations.values, POINTS) and np.array_equal(mask.values, 255 * POINTS)
    assert "a fixation map whose colours are constant: its alpha channel is taken" in said(fixations) and "alpha channel" in said(mask)
    nobody = examine_fixations(save(tmp_path / "b.png", layers(np.broadcast_to(colour, 3), 0 * POINTS)))
    assert not nobody.values.any()
    for read in (examine_density, read_prediction):
        with pytest.raises(ValueError, match="alpha channel that is not opaque.*without alpha"):
            read(path)


def test_an_alpha_channel_that_contradicts_the_colours_is_refused_by_all(tmp_path):
    path = save(tmp_path / "a.png", layers(np.where(POINTS, 0, 255), np.where(POINTS, 255, 0)))  # black points on transparent white
    half = save(tmp_path / "b.png", layers(RAMP, np.full((12, 16), 128)))
    for read in (examine_density, examine_fixations, examine_mask, read_prediction):
        for file in (path, half):
            with pytest.raises(ValueError, match="alpha channel that is not opaque: expected a grey"):
                read(file)


def test_an_alpha_channel_that_is_opaque_or_adds_nothing_is_no_matter(tmp_path):
    opaque = save(tmp_path / "a.png", layers(RAMP, np.full((12, 16), 255)))
    assert np.array_equal(read_prediction(opaque), RAMP) and not examine_density(opaque).remarks
    black_where_transparent = save(tmp_path / "b.png", layers(255 * POINTS, 255 * POINTS))
    assert np.array_equal(read_fixations(black_where_transparent), POINTS)
    Image.fromarray(np.where(POINTS, 255, 0).astype(np.uint8)).save(tmp_path / "c.png", transparency=0)   # without a channel of its own
    assert np.array_equal(read_fixations(tmp_path / "c.png"), POINTS)


# Palettes and numbers of objects

def test_in_a_coloured_palette_every_index_above_zero_is_an_object_and_that_is_said(tmp_path):
    mask = examine_mask(save(tmp_path / "a.png", OBJECT, DAVIS))
    assert np.array_equal(mask.values, 255 * (OBJECT > 0)) and mask.values.dtype == np.uint8
    assert said(mask) == "a mask in a palette: every index above 0 is taken for an object"
    transparent = examine_mask(save(tmp_path / "b.png", OBJECT, DAVIS, transparency=0))
    assert np.array_equal(transparent.values, mask.values)
    none = examine_mask(save(tmp_path / "c.png", 0 * OBJECT, DAVIS))
    assert not none.values.any() and "nothing of the frame is object" in said(none)
    for read in (examine_density, examine_fixations, read_prediction):
        with pytest.raises(ValueError, match="is in colour"):
            read(tmp_path / "a.png")


def test_an_object_whose_colour_in_the_palette_is_grey_is_one_also_alone(tmp_path):
    davis = np.array([[128 * (i >> c & 1) for c in range(3)] for i in range(8)]).flatten().tolist()  # its object 7 is grey, 128
    mask = examine_mask(save(tmp_path / "a.png", (7 * (OBJECT > 0)).astype(np.uint8), davis))
    assert np.array_equal(mask.values, 255 * (OBJECT > 0)) and "in a palette" in said(mask)


def test_a_coloured_palette_in_which_black_is_not_the_first_colour_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is in colour: expected a grey mask"):
        examine_mask(save(tmp_path / "b.png", OBJECT, [0, 0, 0, 128, 0, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="is in colour: expected a grey mask"):
        examine_mask(save(tmp_path / "a.png", OBJECT, [128, 0, 0, 0, 0, 0, 0, 128, 0]))


def test_a_grey_palette_means_its_levels(tmp_path):
    path = save(tmp_path / "a.png", (OBJECT > 0).astype(np.uint8), [255, 255, 255, 0, 0, 0])  # white first: the object is the rest
    mask = examine_mask(path)
    assert np.array_equal(mask.values, np.where(OBJECT > 0, 0, 255)) and "first colour is not black" in said(mask)
    web = Image.fromarray(np.stack([255 * (OBJECT > 0)] * 3, axis=2).astype(np.uint8)).convert("P")  # a palette of colours, two greys of it used
    web.save(tmp_path / "b.png")
    assert np.array_equal(read_mask(tmp_path / "b.png"), 255 * (OBJECT > 0))


@pytest.mark.parametrize("levels, expected, reason", [
    ([0, 0], [0, 0], "nothing"), ([0, 1], [0, 255], ""), ([0, 2], [0, 255], "object numbers"), ([1, 2, 0], [255, 255, 0], "object numbers"),
    ([0, 32], [0, 255], "object numbers"), ([0, 33], [0, 33], "the brightest level of a mask is 33"), ([0, 129], [0, 129], ""),
    ([0, 100, 100, 255], [0, 100, 100, 255], "several levels"), ([0, 100, 100, 100, 255], [0, 100, 100, 100, 255], "most pixels of a mask are grey"),
])
def test_small_levels_of_a_mask_are_numbers_of_objects_and_what_is_doubtful_is_said(tmp_path, levels, expected, reason):
    mask = examine_mask(save(tmp_path / "a.png", np.array([levels], np.uint8)))
    assert mask.values.tolist() == [expected]
    assert reason in said(mask) if reason else not mask.remarks


def test_dark_noise_of_a_jpeg_is_no_object(tmp_path):
    black = np.zeros((16, 16), np.uint8)
    black[4, 4] = 12
    mask = examine_mask(save(tmp_path / "a.jpg", black, quality=90))
    assert 1 < mask.values.max() <= 32 and "the brightest level" in said(mask)


# How many are fixated

def test_fixations_in_jpeg_are_what_is_at_half_and_that_is_said(tmp_path):
    path = save(tmp_path / "a.jpg", 255 * POINTS.astype(np.uint8), quality=90)
    assert (np.array(Image.open(path)) > 0).sum() > 2 * POINTS.sum()       # what JPEG adds around them
    fixations = examine_fixations(path)
    assert np.array_equal(fixations.values, POINTS) and "changes levels (JPEG or WebP): fixated is what is at 128" in said(fixations)
    assert np.array_equal(examine_fixations(save(tmp_path / "a.webp", 255 * POINTS.astype(np.uint8), lossless=True)).values, POINTS)
    black = examine_fixations(save(tmp_path / "b.jpg", 0 * RAMP))
    assert not black.values.any() and not black.remarks                    # nobody looked
    dark = examine_fixations(save(tmp_path / "c.jpg", 90 * POINTS.astype(np.uint8), quality=90))
    assert not dark.values.any() and "which is nowhere" in said(dark)


@pytest.mark.parametrize("picture, question", [
    (np.where(POINTS, 0, 255), "inverted"), (np.full((12, 16), 255), "inverted"), (RAMP, "a density map"),
    (np.where(np.arange(192).reshape(12, 16) < 20, RAMP // 2 + 1, 0), "a density map"),
])
def test_what_has_too_many_fixations_is_no_fixation_map(tmp_path, picture, question):
    with pytest.raises(ValueError, match=rf"a.png is not a fixation map: \d+\.\d% of its pixels are fixated.*is it {question}\? Save what was looked at as 255"):
        examine_fixations(save(tmp_path / "a.png", picture.astype(np.uint8)))
    if question == "inverted":
        with pytest.raises(ValueError, match="is it inverted"):
            examine_fixations(save(tmp_path / "a.jpg", picture.astype(np.uint8), quality=95))


def test_discs_and_more_than_two_values_are_taken_and_said(tmp_path):
    discs = examine_fixations(save(tmp_path / "a.png", np.where(OBJECT, 255, 0).astype(np.uint8)))
    assert discs.values.sum() == 32 and said(discs).startswith("16.7% of a fixation map are fixated")
    grey = examine_fixations(save(tmp_path / "b.png", np.where(POINTS, RAMP // 2 + 1, 0).astype(np.uint8)))
    assert np.array_equal(grey.values, POINTS) and "more than two values" in said(grey)


# MATLAB's files

def save_73(path, variables, text=False):
    """A .mat of version 7.3: matrices transposed, sparse ones as groups; with MATLAB's 512 bytes of text in front if wanted."""
    h5py = pytest.importorskip("h5py", reason='pip install ".[mat73]"')
    with h5py.File(path, "w", userblock_size=512 if text else 0) as file:
        for name, matrix in variables.items():
            if scipy.sparse.issparse(matrix):
                group = file.create_group(name)
                group.attrs["MATLAB_sparse"], group.attrs["MATLAB_class"] = np.uint64(matrix.shape[0]), np.bytes_("double")
                parts = {"data": matrix.data, "ir": matrix.indices, "jc": matrix.indptr} if matrix.nnz else {"jc": matrix.indptr}
                for part, values in parts.items():
                    group[part] = values if part == "data" else values.astype(np.uint64)
            else:
                file[name] = matrix.T
                file[name].attrs["MATLAB_class"] = np.bytes_({"f": "double", "u": "uint8", "b": "logical"}[matrix.dtype.kind])
    if text:
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("text", [False, True])
def test_matlab_7_3_is_read_and_turned_back(tmp_path, text):
    for number, matrix in enumerate((POINTS.astype(np.uint8), POINTS.astype(float), POINTS)):
        path = save_73(tmp_path / f"{number}.mat", {"I": matrix}, text)
        assert np.array_equal(read_fixations(path), POINTS) and not examine_fixations(path).remarks


def test_sparse_matrices_of_either_version_are_read(tmp_path):
    for number, matrix in enumerate((POINTS, np.zeros((12, 16)))):
        sparse = scipy.sparse.csc_matrix(matrix.astype(float))
        scipy.io.savemat(tmp_path / "old.mat", {"eyeMap": sparse})
        for path in (tmp_path / "old.mat", save_73(tmp_path / f"{number}.mat", {"eyeMap": sparse})):
            assert np.array_equal(read_fixations(path), matrix > 0)


def test_a_damaged_sparse_matrix_is_said_to_be_one(tmp_path):
    path = save_73(tmp_path / "a.mat", {"I": scipy.sparse.csc_matrix(POINTS.astype(float))})
    import h5py
    with h5py.File(path, "a") as file:
        file["I/ir"][0] = 99
    with pytest.raises(ValueError, match=r"cannot read fixation map .*a.mat: .*indices"):
        read_fixations(path)


def test_without_h5py_the_message_says_how_to_install_or_convert_and_nothing_of_damage(tmp_path, monkeypatch):
    path = save_73(tmp_path / "a.mat", {"I": POINTS}, text=True)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"a.mat: it is of MATLAB's version 7.3 \(HDF5\), which needs h5py: pip install h5py, .*save\(.., '-v7'\)") as caught:
        read_fixations(path)
    assert "damage" not in str(caught.value) and "restore" not in str(caught.value)


@pytest.mark.parametrize("version", ["7", "7.3"])
def test_the_only_matrix_of_the_frames_size_is_taken_whatever_its_name_and_that_is_said(tmp_path, version):
    store = scipy.io.savemat if version == "7" else save_73
    frame = save(tmp_path / "frame.png", RAMP)
    path = tmp_path / "a.mat"
    store(path, {"gaze": POINTS.astype(np.uint8), "screen": np.array([[1440.0, 900.0]])})
    fixations = examine_fixations(path, like=frame)
    assert np.array_equal(fixations.values, POINTS)
    assert said(fixations) == "a fixation map from the variable gaze of its .mat file, the only matrix there of its frame's size"
    store(path, {"gaze": POINTS.astype(np.uint8), "clicks": POINTS.astype(float), "screen": np.array([[1440.0, 900.0]])})
    for like in (frame, None):
        with pytest.raises(ValueError, match=r"no variable I or eyeMap, .* nor one other matrix alone of its frame's size. It holds .*(gaze|clicks) \(12 x 16, uint8|double\)"):
            examine_fixations(path, like)


@pytest.mark.parametrize("matrix", [np.where(POINTS, np.nan, 0.0), np.where(POINTS, 1.0, -1.0)])
def test_numbers_that_are_no_fixations_are_refused(tmp_path, matrix):
    scipy.io.savemat(tmp_path / "a.mat", {"I": matrix})
    with pytest.raises(ValueError, match="variable I of .*a.mat must be a fixation map.*below 0, or NaN"):
        read_fixations(tmp_path / "a.mat")


# Kinds that were read wrongly in silence

@pytest.mark.parametrize("level", [1, 2, 5])
def test_a_jpeg_that_is_nearly_black_has_no_fixation(tmp_path, level):
    fixations = examine_fixations(save(tmp_path / "a.jpg", np.full((16, 16), level, np.uint8), quality=100))
    assert not fixations.values.any() and "which is nowhere" in said(fixations)


def test_a_jpeg_of_two_low_levels_has_no_fixation_and_one_of_0_and_255_has_its_own(tmp_path):
    low, high = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)
    low[:8, :8], high[:8, :8] = 6, 255
    assert not read_fixations(save(tmp_path / "a.jpg", low, quality=100)).any()
    assert read_fixations(save(tmp_path / "b.jpg", high, quality=100)).sum() == 64


def test_indices_of_a_palette_of_greys_that_are_not_their_own_levels_are_objects(tmp_path):
    mask = examine_mask(save(tmp_path / "a.png", OBJECT, [0, 0, 0, 64, 64, 64, 200, 200, 200]))
    assert np.array_equal(mask.values > 0, OBJECT > 0) and "every index above 0" in said(mask)
    ramp = examine_mask(save(tmp_path / "b.png", 100 * OBJECT, [level for level in range(256) for _ in range(3)]))
    assert set(np.unique(ramp.values)) == {0, 100, 200}                    # grey levels, in a palette


def test_a_mask_of_several_levels_or_of_a_palette_that_begins_bright_is_doubtful(tmp_path):
    assert "a mask of several levels" in said(examine_mask(save(tmp_path / "a.png", np.array([0, 120, 255], np.uint8)[OBJECT])))
    assert "first colour is not black" in said(examine_mask(save(tmp_path / "b.png", np.minimum(OBJECT, 1), [255, 255, 255, 0, 0, 0])))


def test_colours_too_dark_to_become_grey_are_refused_where_they_are_exact(tmp_path):
    picture = np.zeros((12, 16, 3), np.uint8)
    picture[POINTS, 0] = 1
    with pytest.raises(ValueError, match="is in colour"):
        examine_fixations(save(tmp_path / "a.png", picture))


def test_a_pointer_coordinates_and_what_is_no_matrix_in_a_mat_file_are_named(tmp_path):
    (tmp_path / "a.mat").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="a.mat: it is a Git LFS pointer"):
        examine_fixations(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "b.mat", {"I": np.arange(1, 41).reshape(20, 2)})
    with pytest.raises(ValueError, match="are these coordinates"):
        examine_fixations(tmp_path / "b.mat")


@pytest.mark.parametrize("content, said", [({"other": np.zeros((2, 2))}, "no variable I"), ({"I": np.zeros((2, 2, 2))}, r"shape \(2, 2, 2\)"), ({"I": "text"}, "must be a fixation map")])
def test_a_mat_file_without_a_fixation_map_is_an_error(tmp_path, content, said):
    scipy.io.savemat(tmp_path / "a.mat", content)
    with pytest.raises(ValueError, match=said):
        read_fixations(tmp_path / "a.mat")


def test_a_damaged_mat_file_is_an_error(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(100))
    with pytest.raises(ValueError, match="cannot read fixation map"):
        read_fixations(tmp_path / "a.mat")


def test_a_mask_of_zeros_and_ones_is_brought_to_255_and_others_are_grey_as_they_are(tmp_path):
    for levels, expected in (([0, 0], [0, 0]), ([0, 1], [0, 255]), ([1, 1], [255, 255]), ([0, 38], [0, 38]), ([0, 1, 254], [0, 1, 254])):
        write(tmp_path / "a.png", np.array([levels], np.uint8))
        mask = read_mask(tmp_path / "a.png")
        assert mask.dtype == np.uint8 and mask.tolist() == [expected]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bits.png")
    assert read_mask(tmp_path / "bits.png").tolist() == [[0, 255]]
    write(tmp_path / "colours.png", np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    assert read_mask(tmp_path / "colours.png").tolist() == [[0, 255]]
    cut(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"cannot read image .*a.png \(30 bytes\)"):
        read_mask(tmp_path / "a.png")


# Points

@pytest.fixture
def picture(tmp_path):
    """A picture of 12 x 16 pixels (H x W), whose size that of its fixations is."""
    return save(tmp_path / "frame.png", RAMP)


def points(picture, text):
    path = picture.with_name("a.csv")
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", ["x,y\n", "x,y", "y,observer,x\n\n", "\ufeffx,y\r\n"])
def test_a_list_of_no_points_is_a_frame_at_which_nobody_looked(picture, text):
    fixations = examine_fixations(points(picture, text), picture)
    assert fixations.values.shape == (12, 16) and fixations.values.dtype == bool
    assert not fixations.values.any() and not fixations.remarks


@pytest.mark.parametrize("text, said", [
    ("", r"line 1: .*column x.*found: this file is empty"), ("\n", r"line 1: .*found: nothing$"),
    ("3,2\n", r"line 1: .*found: 3, 2$"), ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "line 1: .*Git LFS pointer"), ("x\n3\n", "line 1: .*column y"), ("x,y,x\n1,2,3\n", "line 1: .*column x"), ("x;y\n1;2\n", "line 1: .*found: x;y"),
    ("x,y\n3.5\n", r"line 2: .*two numbers.*found 3\.5$"), ("x,y\n1,1\n3,\n", r"line 3: .*two numbers"), ("x,y\n1,1\n\n3,left\n", r"line 4: .*two numbers.*3, left"),
    ("x,y\nnan,3\n", r"line 2: .*two numbers.*nan"), ("x,y\n3,inf\n", r"line 2: .*two numbers.*inf"),
    ("x,y\n16,3\n", r"line 2: x = 16, y = 3 is outside .*frame\.png, 12 x 16 \(H x W\)"), ("x,y\n3,12\n", "line 2: .*outside"),
    ("x,y\n-0.01,3\n", r"line 2: x = -0\.01, .*outside"), ("x,y\n3,-1\n", "line 2: .*outside"),
    ("x,y\n1,2\n13,15\n", "line 3: .*outside"),
])
def test_what_is_no_list_of_points_in_its_picture_is_refused_with_file_and_line(picture, text, said):
    with pytest.raises(ValueError, match=f"a.csv, {said}"):
        examine_fixations(points(picture, text), picture)


def test_points_that_are_no_text_are_gone_or_have_no_picture_are_refused(picture):
    path = picture.with_name("a.csv")
    path.write_bytes(b"x,y\n\xff\xfe\n")
    with pytest.raises(ValueError, match="cannot read fixations .*a.csv: .*UTF-8"):
        examine_fixations(path, picture)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="a.csv holds points: .*picture"):
        examine_fixations(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="a.csv is gone"):
        examine_fixations(path, picture)


def test_a_point_sets_the_pixel_it_lies_in_once_however_many_lie_there(picture):
    path = points(picture, 'observer,y, x \n0,2.0,3.999\n1,2.999,3\n"0",7,7\n\n1,11.999,15.999\n')
    fixations = examine_fixations(path, picture)
    assert np.array_equal(fixations.values, POINTS) and not fixations.remarks


def test_any_number_of_points_is_no_remark(picture):
    everywhere = "".join(f"{x},{y}\n" for x in range(16) for y in range(12))
    assert read_fixations(points(picture, f"x,y\n{everywhere}"), picture).all()


def test_points_are_in_pixels_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                                                       # rotated by a quarter
    frame = save(tmp_path / "frame.jpg", np.zeros((16, 12), np.uint8), exif=exif)
    fixations = read_fixations(points(frame, "x,y\n3,2\n7,7\n15,11\n"), frame)
    assert np.array_equal(fixations, POINTS)


@pytest.mark.parametrize("text, observers", [("x,y\n1,2\n", [None]), ("observer,x,y\n 7 ,1,2\n,3,4\n", ["7", None]), ("x,y, observer\n1,2,anna\n3,4\n", ["anna", None]),
                                             ("observer,x,y,observer\n7,1,2,8\n", [None]), ("x,y\n1,2,7\n", [None]), ("x,y,observer\n", [])])
def test_points_are_listed_with_their_observers_where_the_file_says(picture, text, observers):
    found, size = located_points(points(picture, text), picture)
    assert size == (12, 16) and [point.observer for point in found] == observers
    assert [(point.x, point.y) for point in found] == [(1, 2), (3, 4)][:len(observers)]
