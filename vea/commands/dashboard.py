"""``vea dashboard``: the wandb workspace and report of a project, as code.

    vea dashboard --project vea                       # saves both on the server, prints their addresses
    vea dashboard --project vea --out dashboard.json  # the same as JSON, without network

Needs ``pip install 'vea[dashboard]'``. The x-axis is ``samples`` everywhere, so runs of other batch sizes compare.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

from vea.errors import RunError, VeaError, command

# title -> {title of a panel: (what it shows, logarithmic)}
CURVES: dict[str, dict[str, tuple[list[str], bool]]] = {
    "Loss": {
        "loss": (["train/loss", "val/loss"], True),
        "reconstruction": (["train/reconstruction", "val/reconstruction"], True),
        "similarity": (["train/similarity", "val/similarity"], False),
        "contrastive": (["train/contrastive", "val/contrastive"], False),
        "spread of gamma (0: collapse)": (["train/gamma_std", "train/gamma_rank", "val/gamma_std"], False),
    },
    "Validation": {
        "expression": (["val/expression/accuracy", "val/expression/macro_f1"], False),
        "emotion": (["val/emotion/accuracy", "val/emotion/macro_f1"], False),
        "calibration": (["val/expression/ece", "val/emotion/ece"], False),
    },
    "Optimizer": {
        "learning rate": (["train/lr"], False),
        "gradient norm": (["train/grad_norm"], True),
    },
    "Machine": {
        "images per second": (["train/images_per_s"], False),
        "share of time waiting for data": (["train/data_wait"], False),
        "GPU memory, GiB": (["train/memory_gb"], False),
        "GPU utilisation, %": (["system/gpu.0.gpu"], False),
        "memory of the process, MB": (["system/proc.memory.rssMB"], False),
    },
}
PICTURES = ["pictures/reconstruction", "pictures/similarity_student", "pictures/similarity_teacher"]
COLUMNS = ["run:state", "summary:train/loss", "summary:val/loss", "summary:best/step", "config:train.base_lr"]


def _workspaces() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise VeaError("vea dashboard needs wandb-workspaces: pip install 'vea[dashboard]'") from None
    return workspaces, reports


def _curves(reports: Any, title: str) -> list[Any]:
    return [
        reports.LinePlot(title=name, x="samples", y=metrics, log_y=logarithmic)
        for name, (metrics, logarithmic) in CURVES[title].items()
    ]


def _evaluation(reports: Any, *, target: str, split: str) -> list[Any]:
    prefix = f"evaluation/{split}/{target}"
    columns = ["Actual", "Predicted", "nPredictions"]
    confusion = reports.CustomChart(
        query={"summaryTable": {"tableKey": f"{prefix}/confusion_table"}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields={name: name for name in columns},
        chart_strings={"title": f"{target} on {split}: rows are the truth"},
    )
    return [
        reports.BarPlot(title=f"{target} on {split}", metrics=[f"{prefix}/accuracy", f"{prefix}/macro_f1"]),
        confusion,
        reports.WeavePanelSummaryTable(table_name=f"{prefix}/predictions"),
    ]


def build(*, entity: str, project: str, target: str, split: str) -> tuple[Any, Any]:
    """Returns (workspace, report) of a project, not saved; nothing is asked over the network.

    Raises:
        VeaError: wandb-workspaces is not installed.
    """
    workspaces, reports = _workspaces()
    pictures = reports.MediaBrowser(title="pictures", media_keys=PICTURES, num_columns=3)
    evaluation = _evaluation(reports, target=target, split=split)
    sections = [
        workspaces.Section(name=title, panels=_curves(reports, title), is_open=title != "Machine") for title in CURVES
    ]
    sections += [
        workspaces.Section(name="Pictures", panels=[pictures], is_open=True),
        workspaces.Section(name="Evaluation", panels=evaluation, is_open=True),
    ]
    workspace = workspaces.Workspace(
        entity=entity,
        project=project,
        name="vea",
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis="samples", smoothing_type="none"),
        runset_settings=workspaces.RunsetSettings(pinned_columns=COLUMNS),
        auto_generate_panels=True,
    )

    def grid(panels: list[Any]) -> Any:
        return reports.PanelGrid(runsets=[reports.Runset()], panels=panels)  # without a project: the report's own

    blocks = [
        reports.P("Every curve is over samples seen, so that runs of other batch sizes compare. "),
        *(block for title in CURVES for block in (reports.H2(title), grid(_curves(reports, title)))),
        reports.H2("Pictures"),
        grid([reports.MediaBrowser(title="pictures", media_keys=PICTURES, num_columns=3)]),
        reports.H2("Evaluation"),
        grid(_evaluation(reports, target=target, split=split)),
    ]
    description = "Written by `vea dashboard`; change it there, not here."
    report = reports.Report(
        entity=entity, project=project, title=f"{project}: runs", description=description, blocks=blocks, width="fluid"
    )
    return workspace, report


def as_json(workspace: Any, report: Any) -> str:
    """Returns both specs as JSON; the random ids of blocks and panels are numbered, so that equal specs are equal."""
    spec = {"workspace": workspace._to_model(), "report": report._to_model()}
    text = json.dumps(
        {name: model.model_dump(mode="json", by_alias=True, exclude_none=True) for name, model in spec.items()},
        indent=1,
    )
    ids = dict.fromkeys(re.findall(r'"(?:__id__|id|ref)": "([a-z0-9]{8,12})"', text))
    for number, name in enumerate(ids):
        text = text.replace(f'"{name}"', f'"id-{number}"')
    return text


@command
def main(argv: list[str]) -> None:
    """Runs ``vea dashboard``."""
    parser = argparse.ArgumentParser(
        prog="vea dashboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project", default="vea", help="tracking.project of the runs (vea)")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY", ""), help="user or team (WANDB_ENTITY)")
    parser.add_argument("--target", default="expression", help="the label whose evaluation is shown (expression)")
    parser.add_argument("--split", default="test", help="of the evaluation (test)")
    parser.add_argument("--out", type=Path, help="write the JSON here and ask no server")
    arguments = parser.parse_args(argv)
    shown = {"project": arguments.project, "target": arguments.target, "split": arguments.split}
    if arguments.out:
        text = as_json(*build(entity=arguments.entity or "entity", **shown))
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")
        print(f"wrote {arguments.out}")
        return
    import wandb

    try:
        if not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no API key: set WANDB_API_KEY")
        entity = arguments.entity or str(wandb.Api(timeout=30).default_entity)
        for view in build(entity=entity, **shown):
            view.save()
            print(view.url)
    except VeaError:
        raise
    except Exception as error:  # wandb raises what it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RunError(f"the dashboard was not saved: {reason}; --out FILE writes it without a server") from error
