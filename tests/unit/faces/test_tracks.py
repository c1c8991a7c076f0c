import numpy as np
import pytest

from vea.faces.tracks import Tracker, overlap

RED, BLUE = (220, 60, 40), (40, 60, 220)


def frame(people):
    """A grey picture with one textured square a person: {colour: (x, y)}; returns (picture, boxes)."""
    image = np.full((200, 600, 3), 120, np.uint8)
    boxes = []
    for colour, (x, y) in people.items():
        texture = np.random.default_rng(sum(colour) + colour[0]).integers(-40, 40, (60, 60, 3))
        image[y : y + 60, x : x + 60] = np.clip(np.array(colour) + texture, 0, 255)
        boxes.append((x, y, x + 60, y + 60))
    return image, boxes


def run(tracker, paths, *, rate=25.0):
    """Returns {person: set of track numbers} of people who move along ``paths``: {colour: {frame: (x, y)}}."""
    found = {colour: set() for colour in paths}
    for number in range(max(max(path) for path in paths.values()) + 1):
        people = {colour: path[number] for colour, path in paths.items() if number in path}
        image, boxes = frame(people)
        for colour, track in zip(people, tracker.update(image, boxes, time=number / rate)):
            found[colour].add(track)
    return found


def test_two_people_one_late_crossing_and_one_leaving_are_two_tracks():
    red = {n: (20 + 8 * n, 70) for n in range(60)}
    blue = {n: (500 - 8 * n, 74) for n in range(10, 50)}
    found = run(Tracker(), {RED: red, BLUE: blue})
    assert found == {RED: {1}, BLUE: {2}}


@pytest.mark.parametrize("gap", [5, 20])
def test_a_face_that_is_missed_for_a_moment_keeps_its_number(gap):
    path = {n: (100 + n, 70) for n in range(60) if not 20 <= n < 20 + gap}
    assert run(Tracker(), {RED: path}) == {RED: {1}}


def test_who_comes_back_after_a_while_is_somebody_new():
    path = {n: (100, 70) for n in (*range(10), *range(60, 70))}
    assert run(Tracker(patience=1.0), {RED: path}) == {RED: {1, 2}}


def test_no_face_and_empty_boxes_are_no_error():
    tracker = Tracker()
    assert tracker.update(np.zeros((10, 10, 3), np.uint8), [], time=0) == []
    assert tracker.update(np.zeros((10, 10, 3), np.uint8), [(9, 9, 9, 9)], time=1) == [1]


def test_overlap():
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0
