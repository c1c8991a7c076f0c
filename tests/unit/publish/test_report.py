import base64
import io
import json
import re

import pytest
from PIL import Image

from vea.data import synthetic
from vea.data.shards.plan import write_dataset
from vea.errors import VeaError
from vea.publish.report.evaluation import read_thumbnails, worst_errors
from vea.publish.report.page import read_metrics, write_report
from vea.publish.report.plots import caption_of, group_names

CLASSES = ["happy", "sad<b>", "неутральный"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(
        {"val": synthetic.samples(6, split="val", size=48)},
        out,
        name="scenes",
        title="Drawn scenes",
        fields=synthetic.FIELDS,
        card=None,
        synthetic=True,
    )
    return out


def keys_of(data):
    from vea.data.shards.reader import ShardReader

    reader = ShardReader(data, "val")
    return [reader.read(i)[0] for i in range(len(reader))]


def evaluation(data):
    return {
        "format": 1,
        "split": "val",
        "data": [str(data)],
        "synthetic": True,
        "weights": {"kind": "best", "step": 20, "best": None},
        "targets": {
            "expression": {
                "classes": CLASSES,
                "samples": 5,
                "metrics": {"accuracy": 0.4321, "recall/happy": 0.6789, "nll": float("nan")},
                "intervals": {"accuracy": [0.1111, 0.9999], "recall/happy": [0.2222, 0.8888]},
                "samples_per_class": [3, 2, 0],
                "confusion": [[2, 1, 0], [1, 1, 0], [0, 0, 0]],
            }
        },
        "predictions": {
            "keys": keys_of(data),
            "expression": {
                "target": [0, 1, 0, -1, 0, 1],
                "prediction": [1, 0, 0, 2, 0, 1],
                "confidence": [0.61, 0.97, 0.99, 0.98, 0.5, 0.4],
            },
        },
    }


@pytest.fixture
def run(tmp_path, data):
    run = tmp_path / "demo"
    for folder in ("pictures", "final"):
        (run / folder).mkdir(parents=True)
    ref = [{"path": str(data), "split": "val"}, {"path": "https://example.org/set", "split": "val"}]
    (run / "config.yaml").write_text(json.dumps({"recipe": "pretrain", "name": "demo <1>", "data": {"val": ref}}))
    lines = [
        {"kind": "train", "step": s, "samples": s, "loss": 2 / s, "loss/reconstruction": 1 / s, "lr": 1e-3,
         "images_per_s": 99.0, "data_wait": 0.1, "grad_norm": 1.0, "eta_s": 1, "time": 5.0}
        for s in (10, 20)
    ]  # fmt: skip
    lines.append({"kind": "val", "step": 20, "loss": 0.5, "expression/accuracy": 0.5, "expression/recall/happy": 0.5})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    best = {"metric": "expression/accuracy", "value": 0.5, "step": 20}
    (run / "state.json").write_text(json.dumps({"state": "done", "step": 20, "steps": 20, "best": best}))
    metadata = {"git": {"commit": "abc123", "changed_files": " M x"}, "task": {"teacher": "a tiny teacher"}}
    (run / "final" / "state.json").write_text(json.dumps(metadata))
    for name in ("reconstruction", "similarity_student", "similarity_teacher", ".partial"):
        Image.new("RGB", (8, 8), "red").save(run / "pictures" / f"{name}.png")
    (run / "evaluation_val.json").write_text(json.dumps(evaluation(data)))
    return run


def test_page_has_everything_and_asks_nobody(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = path.read_text(encoding="utf-8")
    for text in ("demo &lt;1&gt;", "pretrain", "done", "20 of 20", "expression/accuracy 0.5000 at step 20",
                 "abc123 (with uncommitted changes)", "a tiny teacher", "Synthetic data: Drawn scenes"):  # fmt: skip
        assert text in page
    for title in ("Training loss and its parts: loss, loss/reconstruction", "Learning rate", "images per second",
                  "waiting for data", "Gradient norm", "Validation losses", "Validation: expression:",
                  "Validation: expression/recall"):  # fmt: skip
        assert title in page
    for name in ("reconstruction", "similarity_student", "similarity_teacher"):
        assert caption_of(name) in page
    assert "Partial" not in page  # a picture that is being written
    for text in ("0.4321", "0.1111 – 0.9999", "0.6789", "0.2222 – 0.8888", "sad&lt;b&gt;", "неутральный", "97.0%"):
        assert text in page
    assert "sad<b>" not in page
    resources = re.findall(r'(?:src|href|action|data)\s*=\s*["\']?([^"\'\s>]+)|url\(([^)]*)\)', page)
    assert resources and all(found.startswith("data:image/") for found, _ in resources)
    assert "<script" not in page and "<link" not in page and "@import" not in page
    images = re.findall(r'src="data:image/(png|jpeg);base64,([^"]+)"', page)
    for _, encoded in images:
        Image.open(io.BytesIO(base64.b64decode(encoded))).load()
    assert [kind for kind, _ in images].count("jpeg") == 2  # the two wrong predictions
    assert not list(run.glob(".report*"))


def test_page_without_evaluation_pictures_and_weights(run):
    (run / "evaluation_val.json").unlink()
    (run / "final" / "state.json").unlink()
    for picture in (run / "pictures").glob("*.png"):
        picture.unlink()
    (run / "metrics.jsonl").write_text("")
    page = write_report(run).read_text(encoding="utf-8")
    assert "Nothing was logged yet" in page and "Evaluation on" not in page and "git commit" not in page


def test_evaluated_data_that_is_gone_leaves_the_numbers(run, data):
    (run / "evaluation_val.json").write_text(json.dumps(evaluation(data) | {"data": ["/no/such/set"]}))
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("picture not found") == 2 and "0.4321" in page


@pytest.mark.parametrize(
    "break_it, words",
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "no metrics.jsonl in"),
        (lambda run: (run / "config.yaml").unlink(), "no config file"),
        (lambda run: (run / "evaluation_val.json").write_text("{"), "evaluation_val.json cannot be read"),
        (lambda run: (run / "evaluation_val.json").write_text("{}"), "not what finetune/evaluate.py writes"),
    ],
)
def test_what_cannot_be_read_is_named(run, break_it, words):
    break_it(run)
    with pytest.raises(VeaError, match=re.escape(words)):
        write_report(run)
    assert not (run / "report.html").exists()


def test_missing_run_folder(tmp_path):
    with pytest.raises(VeaError, match="no run folder"):
        write_report(tmp_path / "none")


def test_metrics_are_sorted_and_cut_lines_are_left_out(run):
    assert [(r["kind"], r["step"]) for r in read_metrics(run / "metrics.jsonl")] == [
        ("train", 10), ("train", 20), ("val", 20),
    ]  # fmt: skip


def test_worst_errors_are_wrong_labelled_and_surest_first():
    table = {"target": [0, 1, -1, 0, 1], "prediction": [1, 1, 0, 1, 0], "confidence": [0.5, 0.9, 0.99, 0.8, 0.8]}
    assert [row["key"] for row in worst_errors(table, list("abcde"))] == ["d", "e", "a"]
    assert [row["key"] for row in worst_errors(table, list("abcde"), count=1)] == ["d"]


def test_a_key_of_two_sets_has_no_thumbnail(data):
    key = keys_of(data)[2]
    assert list(read_thumbnails([str(data)], "val", [key, "unknown"])) == [key]
    assert read_thumbnails([str(data), str(data)], "val", [key]) == {}


def test_groups_share_a_plot_only_where_the_scale_is_the_same():
    groups = group_names(["loss", "loss/a", "lr", "tau"], ["loss", "x/accuracy", "x/macro_f1", "x/ece", "x/recall/y"])
    assert groups == {
        "Training loss and its parts": ("train", ["loss", "loss/a"]),
        "Learning rate": ("train", ["lr"]),
        "Training: tau": ("train", ["tau"]),
        "Validation losses": ("val", ["loss"]),
        "Validation: x": ("val", ["x/accuracy", "x/macro_f1"]),
        "Validation: x/ece": ("val", ["x/ece"]),
        "Validation: x/recall": ("val", ["x/recall/y"]),
    }
