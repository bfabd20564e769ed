"""docs/extending.md, done word for word on a copy of the repository: its six toys, which then work together."""
import ast
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from test_house import FILES, ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
STEP = re.compile(r"(?:A new file|[Ii]n) `(?P<file>[\w/]+\.py)`(?:, (?P<what>an entry of|a function above|a field of|a flag in|above|an import)"
                  r"(?: `(?P<name>[^`]+)`)?)?:\n\n```python\n(?P<code>.*?)```", re.DOTALL)
STEPS = {section.partition("\n")[0]: list(STEP.finditer(section)) for section in PAGE.split("\n## ")[1:]}

USE = """
import sys
import predict, test, train
data, out, images = sys.argv[1:]
common = ["--model", "contrast", "--device", "cpu"]
for name, flags in (("plain", []), ("clipped", ["--clip-grad", "1e-9"])):
    train.main(train.arguments().parse_args([*common, "--dataset", "my-set", "--data", data, "--run-dir", f"{out}/{name}", "--workers", "0", "--epochs", "1",
                                             "--val-every", "0", "--no-tensorboard", "--side", "3", *flags]))
weights = ["--weights", f"{out}/plain/Contrast.pth"]
test.main(test.arguments().parse_args([*common, *weights, "--dataset", "my-set", "--data", data, "--out", out, "--run-name", "scores"]))
predict.main(predict.arguments().parse_args([images, *common, *weights, "--save", "peaks", "--out", out]))
"""


def insert(folder, file, what, name, code):
    """Put a block of the page where the sentence above it says."""
    path = folder / file
    if what is None:
        path.write_text(code)
        return
    lines = path.read_text().splitlines()
    body, indent = ast.parse("\n".join(lines)).body, ""
    if what == "an import":
        line = next(node.lineno for node in body if isinstance(node, ast.ImportFrom)) - 1
    elif what == "above":
        line, = (number for number, text in enumerate(lines) if text.strip() == name)
        indent = " " * (len(lines[line]) - len(lines[line].lstrip()))
    else:
        node, = (node for node in body if name in (getattr(node, "name", ""), *(getattr(target, "id", "") for target in getattr(node, "targets", ()))))
        if what == "a function above":
            line, code = node.lineno - 1, code + "\n\n"
        elif what == "an entry of":
            line, indent = node.end_lineno - 1, "    "
        elif what == "a field of":
            line, indent = max(part.end_lineno for part in node.body if isinstance(part, ast.AnnAssign)), "    "
        else:
            line, indent = node.end_lineno, "    "
    lines[line:line] = [(indent + text).rstrip() for text in code.splitlines()]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def used(tmp_path_factory, short_set):
    """The folder of what a copy with everything on the page made of a set in the new tree."""
    folder = tmp_path_factory.mktemp("extended")
    for name in FILES:
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "copy" / name)
    for steps in STEPS.values():
        for step in steps:
            insert(folder / "copy", step["file"], step["what"], step["name"], step["code"])
    for split in ("train", "val"):
        for video in (short_set / split).iterdir():
            for ours, theirs in (("images", "frames"), ("maps", "density"), ("fixation", "gaze")):
                shutil.copytree(video / ours, folder / "set" / split / "recordings" / video.name / theirs)
    images = next((short_set / "val").iterdir()) / "images"
    ended = subprocess.run([sys.executable, "-c", USE, folder / "set", folder, images], cwd=folder / "copy", capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_every_addition_takes_as_many_places_as_promised():
    places = {title: [step["what"] or "a new file" for step in steps] for title, steps in STEPS.items()}
    assert places == {
        "A tree": ["an entry of"],
        "A dataset": ["an entry of", "an entry of"],                       # and a row in docs/data.md
        "A model": ["a new file", "an import", "an entry of", "a flag in"],
        "A measure": ["a function above", "an entry of"],
        "An output kind": ["a function above", "an entry of"],
        "A training option": ["a field of", "a flag in", "above"],         # the last is what the option does
    }
    assert PAGE.count("```python") == sum(map(len, places.values())) and all(step["code"].count("\n") == 1 for step in STEPS["A tree"] + STEPS["A dataset"])


def test_an_added_tree_and_dataset_are_trained_on_and_scored_beside_published_scores(used):
    page = (used / "scores" / "scores.md").read_text()
    assert json.loads((used / "scores" / "scores.json").read_text())["scores"]["Contrast"]["frames"] == 16
    assert "split val" in page and "| A method | 0.512 | 2.345 |" in page


def test_an_added_models_argument_is_a_flag(used):
    described = json.loads((used / "plain" / "Contrast.json").read_text())
    assert described["configuration"] == {"frame_size": [36, 64], "width": 8, "side": 3}
    assert torch.load(used / "plain" / "Contrast.pth", weights_only=True)["conv.weight"].shape == (8, 3, 4, 3, 3)


def test_an_added_measure_is_in_every_table(used):
    scores = json.loads((used / "scores" / "scores.json").read_text())["scores"]["Contrast"]
    assert 0 < scores["frame_average"]["rmse"] < 1
    assert "| KL | RMSE |" in (used / "scores" / "scores.md").read_text() and (used / "scores" / "per_frame.csv").read_text().partition("\n")[0].endswith(",kl,rmse")


def test_an_added_output_kind_is_written(used):
    lines = (used / "images_peaks.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["0001", "0002"]
    assert all(0 <= int(row) < 45 and 0 <= int(column) < 80 for _, row, column in (line.split(",") for line in lines))


def test_an_added_training_option_is_recorded_and_has_its_effect(used):
    recipes = {name: json.loads((used / name / "run.json").read_text())["recipe"] for name in ("plain", "clipped")}
    assert recipes["plain"]["clip_grad"] == 0 and recipes["clipped"]["clip_grad"] == 1e-9
    plain, clipped = (torch.load(used / name / "Contrast.pth", weights_only=True)["conv.weight"] for name in ("plain", "clipped"))
    assert not torch.equal(plain, clipped)
