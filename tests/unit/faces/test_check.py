from vea.config import load_config
from vea.faces import check as room
from vea.faces.landmarks import FILE, FOLDER


def test_the_doctor_says_where_the_landmarker_comes_from_or_is(monkeypatch, tmp_path):
    config = load_config("configs/finetune/expression_base.yaml")
    monkeypatch.delenv("VEA_DATA", raising=False)
    monkeypatch.setenv("VEA_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(room, "find_spec", lambda name: object())
    _, finding = room.check(config)
    assert finding.state == "ok" and "https://" in finding.todo and FOLDER in finding.todo
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / FILE).write_bytes(b"")
    _, finding = room.check(config)
    assert str(tmp_path) in finding.text and not finding.todo
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    assert "vea[landmarks]" in room.check(config)[1].todo


def test_the_doctor_says_what_finds_faces(monkeypatch):
    config = load_config("configs/finetune/expression_base.yaml")
    monkeypatch.delenv("VEA_FACE_DETECTOR", raising=False)
    assert room.check(config)[0].text.startswith("vea")
    monkeypatch.setenv("VEA_FACE_DETECTOR", "haar")
    finding = room.check(config)[0]
    assert finding.state != "ok" and "haar" in finding.text and finding.todo


def test_runs_on_whole_pictures_hear_nothing_of_it():
    assert room.check(load_config("configs/finetune/scene.yaml")) == []
