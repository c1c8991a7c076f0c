"""EmoSet's command pairs its arms by seed and repeats nothing; max pooling keeps what is small."""

import importlib.util
import json

import pytest
import torch

from vea.config import load_config, to_yaml
from vea.data import synthetic
from vea.data.cards import find_card
from vea.data.sources import make_source
from vea.errors import RunError, VeaError
from vea.models.cnn import build_network


@pytest.fixture(scope="module")
def benchmark(repository):
    path = repository / "benchmarks" / "emoset.py"
    spec = importlib.util.spec_from_file_location("vea_emoset_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put_run(benchmark, folder, *, arm: str, seed: int, data: str, accuracy: float) -> None:
    """Writes what a finished run of the benchmark leaves; the working directory is the repository."""
    name = arm.replace(", ", "-")
    folder = folder / f"{name}-s{seed}"
    folder.mkdir(parents=True)
    made = [*benchmark.ARMS[arm], f"name=emoset-{name}", f"seed={seed}", f"out={folder}"]
    made += [f"data.train.0.path={data}", f"data.val.0.path={data}"]
    (folder / "config.yaml").write_text(to_yaml(load_config("configs/finetune/attributes_drawn.yaml", made)))
    record = {"targets": {"emotion": {"metrics": {"accuracy": accuracy}}}}
    record["blind"] = {"emotion": {"metric": "accuracy", "majority": 0.2}}
    (folder / "evaluation_test.json").write_text(json.dumps(record))


def test_differences_are_paired_by_seed_and_done_runs_are_read(benchmark, tmp_path, monkeypatch, capsys, repository):
    monkeypatch.chdir(repository)
    data = tmp_path / "data"
    data.mkdir()
    (data / "index.json").write_text("{}")
    for seed, (direct, module) in enumerate([(0.30, 0.34), (0.40, 0.42)]):
        put_run(benchmark, tmp_path, arm="direct", seed=seed, data=str(data), accuracy=direct)
        put_run(benchmark, tmp_path, arm="module", seed=seed, data=str(data), accuracy=module)
    monkeypatch.setattr("recipes.run", lambda *words: pytest.fail(f"{words} was run again"))
    said = tmp_path / "said.json"
    words = [str(tmp_path / "raw"), "--config", "configs/finetune/attributes_drawn.yaml", "--out", str(tmp_path)]
    assert not benchmark.main([*words, "--arms", "direct", "module", "--seeds", "0", "1", "--json", str(said)])
    record = json.loads(said.read_text())
    assert record["results"]["module"] == [{"emotion": 0.34}, {"emotion": 0.42}]
    assert record["verdicts"][0] == "emotion, direct: 15.0 ± 7.1 above not looking"
    assert "+3.0 ± 1.4 beside direct (beyond the spread over seeds)" in capsys.readouterr().out


def test_drawn_scenes_are_written_as_emoset_is_released(benchmark, tmp_path):
    raw = tmp_path / "raw"
    benchmark.draw(40, raw, size=48)
    source = make_source(find_card("emoset", benchmark.ROOT / "datasets/cards"))
    assert source.fields(raw) == source.card.label_fields and not source.warnings
    kept = [source.load(raw, "train", *record) for record in source.records(raw, "train")]
    drawn = list(synthetic.samples(32, split="train", size=48))
    assert len(kept) == 32
    for ours, theirs in zip(kept, drawn):
        assert ours.labels == {name: value for name, value in theirs.labels.items() if name in source.card.label_fields}
        assert ours.image == theirs.image


def test_shuffled_annotations_are_the_same_ones_on_other_pictures(benchmark, tmp_path):
    raw, dealt = tmp_path / "raw", tmp_path / "dealt"
    benchmark.draw(60, raw, size=32)
    benchmark.shuffle(raw, dealt)
    before, after = (json.loads((folder / "train.json").read_text()) for folder in (raw, dealt))
    assert [row[:-1] for row in before] == [row[:-1] for row in after], "pictures and emotions stay"
    assert sorted(row[-1] for row in before) == sorted(row[-1] for row in after)
    assert sum(a[-1] == b[-1] for a, b in zip(before, after)) < 5
    assert (dealt / "test.json").read_text() == (raw / "test.json").read_text()
    with pytest.raises(VeaError, match="--draw"):
        benchmark.arguments_of(["--out", str(tmp_path)])


def test_a_failed_run_stops_the_command(benchmark, tmp_path, monkeypatch, repository):
    monkeypatch.chdir(repository)
    monkeypatch.setattr("recipes.subprocess.run", lambda command: type("Done", (), {"returncode": 1}))
    given = type("Given", (), {"out": tmp_path, "config": "c.yaml", "overrides": ["train.steps=8"]})
    with pytest.raises(RunError, match=r"train\.py .*failed"):
        benchmark.measure("joint", 3, tmp_path, given)


def test_avgmax_keeps_a_small_thing_that_the_mean_dilutes():
    torch.manual_seed(0)
    both = build_network("vea_face_cnn", channels=3, args={"widths": [8, 16, 32], "pool": "avgmax"}).eval()
    plain = build_network("vea_face_cnn", channels=3, args={"widths": [8, 16, 32]}).eval()
    plain.load_state_dict(both.state_dict())  # pooling has no weights
    empty = torch.zeros(1, 3, 64, 64)
    thing = empty.clone()
    thing[:, :, 20:24, 20:24] = 3
    with torch.inference_mode():
        change = both(thing) - both(empty)
        torch.testing.assert_close(plain(thing), both(thing)[:, :32])
    assert both.num_features == 64 and change[0, 32:].norm() > 5 * change[0, :32].norm()
    with pytest.raises(VeaError, match="avg or avgmax"):
        build_network("vea_face_cnn", channels=3, args={"pool": "max"})
