import json
import math

import utils


def test_json_is_indented_by_dict_with_lists_on_one_line_and_reads_back(tmp_path):
    content = {"scores": {"cc": 0.5, "kl": math.nan}, "frames": {"a \"quoted\" name": ["1/2", "3"], "none": []}, "empty": {}, "list of dicts": [{"a": 1}]}
    utils.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {**content, "scores": {"cc": 0.5, "kl": None}}
    assert '    "a \\"quoted\\" name": ["1/2", "3"],\n' in text
