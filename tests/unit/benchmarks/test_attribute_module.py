"""The module's benchmark pairs its arms by seed and repeats nothing; max pooling keeps what is small."""

import importlib.util
import json

import pytest
import torch

from vea.config import load_config, to_yaml
from vea.errors import RunError, VeaError
from vea.models.cnn import build_network


@pytest.fixture
def benchmark(repository):
    path = repository / "benchmarks" / "attribute_module.py"
    spec = importlib.util.spec_from_file_location("vea_attribute_module_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put_run(folder, *, arm: str, seed: int, module: bool, accuracy: float) -> None:
    """Writes what a finished run of the benchmark leaves; the working directory is the repository."""
    folder.mkdir(parents=True)
    made = [f"name=module-{arm}", f"seed={seed}", f"model.attribute_module={str(module).lower()}"]
    (folder / "config.yaml").write_text(to_yaml(load_config("configs/finetune/attributes_synthetic.yaml", made)))
    record = {"targets": {"emotion": {"metrics": {"accuracy": accuracy}}}, "blind": {"emotion": {"metric": "accuracy"}}}
    (folder / "evaluation_test.json").write_text(json.dumps(record))


def test_the_difference_is_paired_by_seed_and_done_runs_are_read(benchmark, tmp_path, monkeypatch, capsys, repository):
    monkeypatch.chdir(repository)
    for seed, (without, with_module) in enumerate([(0.30, 0.34), (0.40, 0.42)]):
        put_run(tmp_path / f"without-s{seed}", arm="without", seed=seed, module=False, accuracy=without)
        put_run(tmp_path / f"with-s{seed}", arm="with", seed=seed, module=True, accuracy=with_module)
    monkeypatch.setattr("recipes.run", lambda *words: pytest.fail(f"{words} was run again"))
    said = tmp_path / "module.json"
    assert not benchmark.main(["--seeds", "0", "1", "--out", str(tmp_path), "--json", str(said)])
    record = json.loads(said.read_text())
    assert record["difference"]["mean"] == pytest.approx(0.03)
    assert record["difference"]["sd"] == pytest.approx(0.02 / 2**0.5)
    assert "+3.0 ± 1.4 points, beyond the spread" in capsys.readouterr().out


def test_the_arms_differ_in_the_module_alone_and_a_failed_run_stops(benchmark, tmp_path, monkeypatch, repository):
    monkeypatch.chdir(repository)
    words = []

    def failing(command):
        words.append(command)
        return type("Done", (), {"returncode": 1})

    monkeypatch.setattr("recipes.subprocess.run", failing)
    given = type("Given", (), {"out": tmp_path, "config": "c.yaml", "overrides": ["train.steps=8"]})
    for arm in benchmark.ARMS:
        with pytest.raises(RunError, match=r"train\.py .*failed"):
            benchmark.measure(arm, 3, given)
    plain, module = ({word for word in command if not word.startswith(("out=", "name="))} for command in words)
    assert plain ^ module == {"model.attribute_module=false", "model.attribute_module=true"}


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
