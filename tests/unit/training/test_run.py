import pytest

from vea.errors import VeaError
from vea.training.run import hold_run, start_over


def begun(folder):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("{}")
    (folder / "code").mkdir()
    (folder / "code" / "a.py").write_text("")
    return folder


def test_starting_over_keeps_the_old_run_beside_it_and_the_code_in_its_place(tmp_path):
    run = begun(tmp_path / "run")
    start_over(run)
    assert (tmp_path / "run.1" / "metrics.jsonl").exists() and not (run / "metrics.jsonl").exists()
    assert (run / "code" / "a.py").exists()
    start_over(run)  # only code: nothing has begun
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1"]


@pytest.mark.parametrize("name", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_job_that_is_started_again_goes_on(tmp_path, monkeypatch, name):
    run = begun(tmp_path / "run")
    monkeypatch.setenv(name, "1")
    start_over(run)
    assert (run / "metrics.jsonl").exists()


def test_a_run_folder_has_one_process(tmp_path):
    with hold_run(tmp_path / "run"), pytest.raises(VeaError, match=r"training in .*run"), hold_run(tmp_path / "run"):
        pass
