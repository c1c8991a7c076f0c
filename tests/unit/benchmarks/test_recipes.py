"""What the benchmarks that train share (benchmarks/recipes.py): a finished run is taken only with its own settings."""

import importlib.util
import json

import pytest

from vea.config import load_config, to_yaml
from vea.errors import VeaError


@pytest.fixture(scope="module")
def recipes(repository):
    spec = importlib.util.spec_from_file_location("vea_benchmark_recipes", repository / "benchmarks" / "recipes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def finished(repository, tmp_path):
    """A folder as a finished run leaves it, and the arguments that made it."""
    folder = tmp_path / "a-s0"
    folder.mkdir()
    arguments = [str(repository / "configs/finetune/emotion_oasis.yaml"), "seed=3", "name=a-s0"]
    (folder / "config.yaml").write_text(to_yaml(load_config(arguments[0], [*arguments[1:], f"out={folder}"])))
    (folder / "evaluation_test.json").write_text(json.dumps({"targets": {"valence": 0.5}}))
    return folder, arguments


def test_a_finished_run_is_taken_where_its_settings_are_the_same(recipes, finished):
    folder, arguments = finished
    free = ["runtime.threads=2", "data.workers=0"]  # of these nothing depends
    assert recipes.evaluated(folder, "finetune/train.py", *arguments, *free)["targets"] == {"valence": 0.5}


def test_a_finished_run_with_other_settings_is_refused_by_name(recipes, finished):
    folder, arguments = finished
    with pytest.raises(VeaError, match=r"other settings \(train\.steps was 90 and is 91 now\)"):
        recipes.evaluated(folder, "finetune/train.py", *arguments, "train.steps=91")
