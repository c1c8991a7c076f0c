"""Clips: OMG-Empathy's folders, a folder of videos with a table, drawn stories; frames by number and by key."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vea.config import AugmentConfig
from vea.data.cards import find_card
from vea.data.sample import Sample
from vea.data.shards.index import read_index
from vea.data.shards.plan import write_dataset
from vea.data.shards.reader import ShardReader
from vea.data.shards.writer import Skipped
from vea.data.sources import make_source
from vea.data.synthetic.moving import story
from vea.data.views.clips import ClipViews, frame_times, join_pictures, read_frames, write_video
from vea.data.views.decode import CorruptImage
from vea.errors import VeaError

pytest.importorskip("av", reason="needs the extra: pip install 'vea[video]'")
TIMES = [0.0, 0.04, 0.08, 0.2, 0.6, 0.64, 0.7, 1.0, 1.5, 1.6]  # a variable rate


def numbered(count: int) -> list[np.ndarray]:
    """Returns frames whose grey says their number."""
    return [np.full((32, 48, 3), 10 + 20 * number, np.uint8) for number in range(count)]


def grey(frame: np.ndarray) -> int:
    return round((float(frame.mean()) - 10) / 20)


def card(name: str, cards, **options):
    found = find_card(name, cards)
    return found.model_copy(update={"options": options}) if options else found


@pytest.fixture
def cards(pytestconfig):
    return pytestconfig.rootpath / "datasets" / "cards"


def test_frames_are_found_by_their_number():
    data = write_video(numbered(10), TIMES)
    assert frame_times(data) == pytest.approx(TIMES, abs=1e-3)
    assert [grey(frame) for frame in read_frames(data, TIMES, [2, 3, 7, 9, 9])] == [2, 3, 7, 9, 9]
    late = [number * 1.0 for number in range(12)]
    data = write_video(numbered(12), late)
    assert [grey(frame) for frame in read_frames(data, late, [9, 11])] == [9, 11], "sought"
    with pytest.raises(CorruptImage):
        read_frames(data[: len(data) // 3], late, [11])
    with pytest.raises(CorruptImage):
        frame_times(b"no video")


def test_a_clip_view_is_a_function_of_the_key():
    clip = {"times": [i / 25 for i in range(10)], "tracks": {"1": [[0, 0, 0, 16, 16], [9, 18, 0, 34, 16]]}}
    data = write_video(numbered(10), clip["times"])
    views = ClipViews(AugmentConfig(image_size=16, flip=0.5), frames=4, stride=2, seed=3, train=True)
    drawn = [views.cut(data, clip, key=f"k{i}", pass_number=p) for i in range(6) for p in range(2)]
    again = [views.cut(data, clip, key=f"k{i}", pass_number=p) for i in range(6) for p in range(2)]
    assert all(
        (a[1] == b[1]).all() and a[2] == b[2] and (np.stack(a[0]) == np.stack(b[0])).all() for a, b in zip(drawn, again)
    )
    assert {int(numbers[0]) for _, numbers, _ in drawn} == {0, 1, 2, 3} and {mirrored for *_, mirrored in drawn} == {
        True,
        False,
    }
    for frames, numbers, _ in drawn:
        assert (np.diff(numbers) == 2).all() and [grey(frame) for frame in frames] == numbers.tolist()
    whole = ClipViews(AugmentConfig(image_size=16), frames=12, stride=1, seed=0, train=False)
    assert whole.cut(data, clip, key="k", pass_number=0)[1].tolist() == [*range(10), 9, 9]
    with pytest.raises(VeaError, match=r"augment\.erase"):
        ClipViews(AugmentConfig(erase=0.5), frames=2, stride=1, seed=0, train=True)


def omg(root, *, rows: int = 10):
    for split in ("Training", "Validation"):
        for what in ("Videos", "Annotations"):
            (root / split / what).mkdir(parents=True)
        (root / split / "Videos" / "Subject_1_Story_2.mp4").write_bytes(write_video(numbered(10), TIMES))
        lines = "".join(f"{value / 10}\n" for value in range(rows))
        (root / split / "Annotations" / "Subject_1_Story_2.csv").write_text(f"valence\n{lines}")


def test_omg_empathy_is_read_and_its_names_and_lengths_are_checked(tmp_path, cards):
    omg(tmp_path)
    source = make_source(card("omg_empathy", cards))
    assert source.splits(tmp_path) == ["train", "val"]
    (sample,) = source.samples(tmp_path, "train")
    assert isinstance(sample, Sample) and sample.key == "Subject_1_Story_2"
    assert sample.clip["series"]["valence"] == [value / 10 for value in range(10)]
    write_dataset(
        {"train": [sample]}, tmp_path / "set", name="omg", title="", card=None, fields=source.fields(tmp_path)
    )
    key, data, metadata = ShardReader(tmp_path / "set", "train").read(0)
    assert key == sample.key and data == sample.image and metadata["clip"] == sample.clip
    assert metadata["labels"]["valence"] == pytest.approx(0.45)
    from vea.data.shards.check import check_shard

    index = read_index(tmp_path / "set")
    assert check_shard(index, index.split("train")["shards"][0], decode=True).problems == []

    short = tmp_path / "short"
    omg(short, rows=9)
    (skipped,) = make_source(card("omg_empathy", cards)).samples(short, "train")
    assert isinstance(skipped, Skipped) and "has 10 frames, valence has 9 rows" in skipped.reason
    (short / "Training" / "Videos" / "Person_1.mp4").write_bytes(b"")
    with pytest.raises(VeaError, match=r"the name is not Subject_X_Story_Y\.mp4"):
        list(source.records(short, "train"))
    (short / "Training" / "Videos" / "Person_1.mp4").unlink()
    (short / "Training" / "Annotations" / "Subject_3_Story_1.csv").write_text("valence\n1\n")
    with pytest.raises(VeaError, match=r"Subject_3_Story_1\.csv has no video"):
        list(source.records(short, "train"))


def test_a_folder_of_videos_and_of_frames(tmp_path, cards):
    (tmp_path / "a.mp4").write_bytes(write_video(numbered(10), TIMES))
    (tmp_path / "b").mkdir()
    pictures = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in numbered(5)]
    for number, data in enumerate(pictures):
        (tmp_path / "b" / f"{number:03d}.jpg").write_bytes(data)
    (tmp_path / "labels.csv").write_text("file,valence,split\na.mp4,0.5,train\nb,-0.5,val\nc.mp4,0,val\n")
    source = make_source(card("clip_folder", cards, rate=10.0))
    assert source.splits(tmp_path) == ["train", "val"]
    (first,) = source.samples(tmp_path, "train")
    assert first.labels == {"valence": 0.5} and len(first.clip["times"]) == 10
    second, missing = sorted(source.samples(tmp_path, "val"), key=lambda found: found.key)
    assert isinstance(missing, Skipped) and "missing" in missing.reason
    assert second.clip["times"] == [0, 0.1, 0.2, 0.3, 0.4] and second.extension == "mkv"
    assert pictures[2] in second.image, "frames stay as they are"
    assert [grey(frame) for frame in read_frames(second.image, second.clip["times"], [0, 3, 4])] == [0, 3, 4]
    with pytest.raises(CorruptImage, match="frame 1 is no JPEG of the size"):
        join_pictures([pictures[0], cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()], [0, 1])


def test_drawn_stories_share_no_person(cards):
    source = make_source(card("moving", cards, subjects=5, stories=2, frames=8))
    persons = [
        {key.partition("_Story")[0] for key, _ in source.records(None, split)} for split in ("train", "val", "test")
    ]
    assert [len(part) for part in persons] == [3, 1, 1] and len(set().union(*persons)) == 5
    one, same = (next(iter(source.samples("", "val"))) for _ in range(2))
    assert one.image == same.image and one.clip == same.clip and len(one.clip["series"]["valence"]) == 8
    told = [story(3, number, seed=0, frames=40) for number in range(2)]
    assert not np.allclose(told[0].valence, told[1].valence) and np.abs(told[0].valence).max() <= 1
    joy = np.array([units["AU12"] for units in told[0].units])
    assert np.corrcoef(joy, told[0].valence)[0, 1] > 0.3
