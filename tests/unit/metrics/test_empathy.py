import numpy as np
import pytest

from vea.errors import VeaError
from vea.metrics import ccc, empathy_scores, score_folders
from vea.metrics.empathy import read_folder


def theirs(y_true, y_pred):
    """The challenge's formula: rho by Pearson, population moments, a rho that is no number counts as 0."""
    with np.errstate(all="ignore"):
        rho = np.corrcoef(y_true, y_pred)[0, 1]
    rho = 0 if np.isnan(rho) else rho
    spread = np.std(y_true) ** 2 + np.std(y_pred) ** 2 + (np.mean(y_true) - np.mean(y_pred)) ** 2
    return 2 * rho * np.std(y_true) * np.std(y_pred) / spread


@pytest.mark.parametrize("scale", [1e-4, 1, 1e6])
@pytest.mark.parametrize("shift", [0, 3, 1e3])
def test_ccc_is_the_formula_of_the_challenge(scale, shift):
    rng = np.random.default_rng(0)
    for length in (2, 7, 400):
        target = rng.normal(size=length)
        guess = 0.5 * target + rng.normal(size=length)
        target, guess = scale * (target + shift), scale * (guess + shift)
        assert ccc(guess, target) == pytest.approx(theirs(target, guess), abs=1e-7)
    assert ccc(target, target) == pytest.approx(1)


def test_a_flat_series_scores_0_and_what_cannot_be_compared_is_said():
    assert ccc(np.ones(5), np.arange(5.0)) == ccc(np.arange(5.0), np.ones(5)) == ccc(np.ones(5), np.ones(5)) == 0
    for first, second in (([1.0, 2], [1.0]), ([], []), ([1.0, np.nan], [1.0, 2]), ([1.0, 2], [np.inf, 2])):
        with pytest.raises(VeaError, match="CCC"):
            ccc(np.array(first), np.array(second))


def write(folder, series):
    folder.mkdir(exist_ok=True)
    for (subject, story), values in series.items():
        lines = "\n".join(["valence", *map(str, values)])
        (folder / f"Subject_{subject}_Story_{story}.csv").write_text(lines + "\n")
    return folder


def series(seed, keys=((1, 2), (1, 5), (2, 2), (2, 5), (3, 2))):
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=40 + key[0]) for key in keys}


def test_personalised_is_by_listener_and_generalised_by_story(tmp_path):
    """Not the same number where a listener lacks a story: each mean is of means."""
    true, guess = series(0), {key: value + series(1)[key] for key, value in series(0).items()}
    scores = score_folders(write(tmp_path / "p", guess), write(tmp_path / "t", true))
    one = {key: theirs(true[key], guess[key]) for key in true}
    by_listener = [np.mean([one[1, 2], one[1, 5]]), np.mean([one[2, 2], one[2, 5]]), one[3, 2]]
    by_story = [np.mean([one[1, 2], one[2, 2], one[3, 2]]), np.mean([one[1, 5], one[2, 5]])]
    assert scores["personalized"] == pytest.approx(np.mean(by_listener))
    assert scores["generalized"] == pytest.approx(np.mean(by_story))
    assert scores["ccc/subject_3"] == pytest.approx(one[3, 2])
    assert scores["personalized"] != scores["generalized"]


def test_pairs_and_lengths_must_agree():
    true = series(0)
    with pytest.raises(VeaError, match="no prediction: Subject_3_Story_2"):
        empathy_scores({key: value for key, value in true.items() if key != (3, 2)}, true)
    with pytest.raises(VeaError, match="unknown: Subject_9_Story_9"):
        empathy_scores(true | {(9, 9): np.zeros(3)}, true)
    with pytest.raises(VeaError, match=r"Subject_1_Story_5.*40 and 41"):
        empathy_scores(true | {(1, 5): true[1, 5][:-1]}, true)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("Subject_1_Story_1.csv", "", "no column 'valence'"),
        ("Subject_1_Story_1.csv", "arousal\n1\n", "no column 'valence'"),
        ("Subject_1_Story_1.csv", "valence\n", "no row"),
        ("Subject_1_Story_1.csv", "valence\n0.1\nhigh\n", "line 3: 'high'"),
        ("Subject_1_Story_1.csv", "valence\n0.1\nnan\n", "line 3: 'nan'"),
        ("Subject_1.csv", "valence\n1\n", "Subject_X_Story_Y"),
        ("Subject_1_Story_1.txt", "valence\n1\n", "holds no"),
    ],
)
def test_files_of_another_shape_are_one_sentence(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(VeaError, match=said) as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_two_files_of_one_pair_and_no_folder(tmp_path):
    write(tmp_path, {(1, 1): [0.5, 1]})
    (tmp_path / "subject_01_story_1.csv").write_text("Valence\n1\n")
    with pytest.raises(VeaError, match="two files"):
        read_folder(tmp_path)
    with pytest.raises(VeaError, match="no folder"):
        read_folder(tmp_path / "none")


def test_a_spreadsheets_file_is_read(tmp_path):
    (tmp_path / "Subject_1_Story_1.csv").write_bytes("\ufeffframe,Valence\r\n0,0.25\r\n1,-1\r\n\r\n".encode())
    assert read_folder(tmp_path)[1, 1].tolist() == [0.25, -1]
