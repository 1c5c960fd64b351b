"""The frontier is whole after every point, tells good from beaten, and mixes no two searches."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import spq
from spqformat import Reason, SpqError
from spqtools.inspection import inspect_file
from spqtools.search.frontier import Frontier

FACTS = {"teacher": "5ea"}


def packed(zeros: int) -> bytes:
    """Pack 400 weights: the more of them are zero, the fewer levels and bytes."""
    weights = np.arange(1.0, 401.0, dtype="f4")
    weights[:zeros] = 0.0
    stream = io.BytesIO()
    spq.save({"weight": weights[::-1].reshape(20, 20).copy()}, stream)
    return stream.getvalue()


def add(frontier: Frontier, zeros: int, divergence: float) -> str:
    content = packed(zeros)
    return frontier.add(content, inspect_file(content), divergence, None).file


def choose(frontier: Frontier, zeros: int, divergence: float) -> None:
    content = packed(zeros)
    frontier.choose(content, inspect_file(content), divergence, 0.5)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="ascii"))


def test_points_files_and_plot(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    frontier = Frontier(path, FACTS, resumes=False)
    assert list(tmp_path.iterdir()) == []
    for zeros, divergence in ((200, 0.1), (280, 0.3), (360, 0.2)):
        add(frontier, zeros, divergence)
        assert read(path)["chosen"] is None
    choose(frontier, 360, 0.2)
    content = read(path)
    assert content["teacher"] == "5ea"
    assert content["chosen"] == "points/02.spq"
    assert [row["file"][-6:-4] for row in content["points"]] == ["00", "01", "02"]
    assert [row["dominated"] for row in content["points"]] == [False, True, False]
    assert [row["zeros"] for row in content["points"]] == [200, 280, 360]
    for row in content["points"]:
        file = tmp_path / row["file"]
        assert file.read_bytes() == packed(row["zeros"])
        assert row["bytes"] == file.stat().st_size
        assert row["ratio"] == pytest.approx(1600 / row["bytes"])
    with Image.open(tmp_path / "points.png") as image:
        assert image.format == "PNG"
        assert np.unique(np.asarray(image.convert("L"))).size > 10
    assert {entry.name for entry in tmp_path.iterdir()} == {"points", "points.json", "points.png"}


def test_the_output_is_added_where_no_point_is_like_it(tmp_path: Path) -> None:
    frontier = Frontier(tmp_path / "points.json", FACTS, resumes=False)
    add(frontier, 200, 0.0)
    choose(frontier, 300, 0.0)
    content = read(tmp_path / "points.json")
    assert content["chosen"] == "points/01.spq"
    assert content["points"][1]["drop"] == 0.5


def test_a_resumed_search_finds_its_points_again(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    frontier = Frontier(path, FACTS, resumes=False)
    first = [add(frontier, zeros, 1 / (401 - zeros)) for zeros in range(0, 390, 3)]
    assert len(set(first)) == 130
    before = path.read_bytes()
    resumed = Frontier(path, FACTS, resumes=True)
    assert [add(resumed, zeros, 1 / (401 - zeros)) for zeros in range(0, 390, 3)] == first
    assert path.read_bytes() == before
    assert add(resumed, 399, 3.0) == "points/130.spq"


def refused(path: Path, reason: Reason, *, resumes: bool) -> str:
    with pytest.raises(SpqError) as caught:
        Frontier(path, FACTS, resumes=resumes)
    assert caught.value.code == reason
    return str(caught.value)


def test_names_that_end_otherwise(tmp_path: Path) -> None:
    refused(tmp_path / "points", Reason.BAD_ARGUMENT, resumes=False)


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "points").mkdir()
    Frontier(tmp_path / "points.json", FACTS, resumes=False)
    (tmp_path / "points" / "00.spq").write_bytes(b"of another search")
    sentence = refused(tmp_path / "points.json", Reason.BAD_ARGUMENT, resumes=False)
    assert "holds files already" in sentence


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"teacher": "5ea", "points": [{"file": "a"}]}']
)
def test_nothing_to_go_on_from(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "points.json"
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "00.spq").write_bytes(b"")
    if content is not None:
        path.write_text(content, encoding="ascii")
    refused(path, Reason.BAD_CHECKPOINT, resumes=True)


def test_a_search_without_points_goes_on_without(tmp_path: Path) -> None:
    resumed = Frontier(tmp_path / "points.json", FACTS, resumes=True)
    assert add(resumed, 399, 3.0) == "points/00.spq"


def test_points_of_another_search(tmp_path: Path) -> None:
    (tmp_path / "points.json").write_text('{"teacher": "0", "points": []}', encoding="ascii")
    sentence = refused(tmp_path / "points.json", Reason.BAD_CHECKPOINT, resumes=True)
    assert "belongs to another search" in sentence


def test_without_matplotlib(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from spqtools.search.frontier import Frontier\n"
        "try: Frontier(Path('points.json'), {}, resumes=False)\n"
        "except ValueError as error: print(error)\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert outcome.stdout.endswith("run: pip install 'spqformat[plot]' [missing_extra]\n")
    assert list(tmp_path.iterdir()) == []
