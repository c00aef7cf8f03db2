import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.distortion.analysis import ClassProbabilities
from orchestrator.distortion.raters import RATERS_PER_IMAGE, assignments, choose_images, make_page
from orchestrator.distortion.study import Verdicts
from orchestrator.distortion.votes import distortion_rates, read_ballots
from orchestrator.errors import UserError

NAMES = ("ant", "bee</script>")


def verdicts(name: str, count: int = 40) -> Verdicts:
    """A classifier's verdicts: every fourth image is doubted; image i has the grey level i."""
    places = np.arange(count)
    probabilities = np.where(places % 4 == 0, 0.1, 0.9).astype(np.float32)
    images = np.broadcast_to(places[::4, None, None, None], (len(places[::4]), 1, 8, 8)).astype(np.uint8)
    return Verdicts(ClassProbabilities(name, places % 2, probabilities, places % 2), images, {})


@given(st.integers(1, 60), st.integers(RATERS_PER_IMAGE, 9))
def test_every_image_goes_to_five_raters_who_get_as_many_each(images: int, raters: int) -> None:
    seen = assignments(images, raters, seed=0)
    times = Counter(image for mine in seen for image in mine)
    assert times == dict.fromkeys(range(images), RATERS_PER_IMAGE)
    assert all(len(set(mine)) == len(mine) for mine in seen)
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


def test_the_images_are_doubted_ones_of_each_model_mixed() -> None:
    chosen = choose_images([verdicts("one"), verdicts("other")], 0.2, per_model=6, seed=0)
    assert Counter(name for name, _ in chosen) == {"one": 6, "other": 6}
    assert all(place % 4 == 0 for _, place in chosen)
    assert len(set(chosen)) == 12
    assert [name for name, _ in chosen] != sorted(name for name, _ in chosen)


def test_the_page_names_no_model_and_the_key_does() -> None:
    both = [verdicts("secret-one"), verdicts("secret-other")]
    chosen = choose_images(both, 0.2, 6, 0)
    page, key = make_page("study", both, chosen, 0.2, NAMES, 5, seed=0)
    assert "secret" not in page
    assert page.count("</script>") == 2
    assert [(image["model"], image["index"]) for image in key["images"].values()] == chosen


def save(folder: Path, rater: int, votes: dict[str, str], study: str = "study") -> str:
    file = folder / f"{study}-{rater}-{len(list(folder.iterdir()))}.json"
    file.write_text(json.dumps({"study": study, "rater": rater, "votes": votes}))
    return str(file)


KEY = {
    "images": {
        "0": {"model": "a", "index": 4},
        "1": {"model": "a", "index": 8},
        "2": {"model": "b", "index": 4},
    }
}


def test_rates_are_of_each_rater_and_then_their_mean(tmp_path: Path) -> None:
    files = [
        save(tmp_path, 1, {"0": "distorted", "1": "fine", "2": "fine"}),
        save(tmp_path, 2, {"0": "distorted", "2": "distorted"}),
    ]
    study, ballots = read_ballots(files)
    found = distortion_rates(KEY, ballots)
    assert study == "study"
    assert found.by_rater == {"a": {1: 0.5, 2: 1.0}, "b": {1: 0.0, 2: 1.0}}
    assert found.mean == {"a": 0.75, "b": 0.5}
    assert found.agreement == 0.5
    assert found.judged_too_seldom == 3


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one = save(tmp_path, 1, {"0": "fine"})
    with pytest.raises(UserError, match="both of rater 1"):
        read_ballots([one, save(tmp_path, 1, {"1": "fine"})])
    with pytest.raises(UserError, match="several studies"):
        read_ballots([one, save(tmp_path, 2, {}, study="other")])
    with pytest.raises(UserError, match="other than fine and distorted: maybe"):
        read_ballots([save(tmp_path, 3, {"0": "maybe"})])
    with pytest.raises(UserError, match="no name of a study's folder"):
        read_ballots([save(tmp_path, 4, {}, study="../../elsewhere")])
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="no file of votes"):
        read_ballots([str(tmp_path / "broken.json")])
    with pytest.raises(UserError, match="does not have: 9"):
        distortion_rates(KEY, read_ballots([save(tmp_path, 4, {"9": "fine"})])[1])
