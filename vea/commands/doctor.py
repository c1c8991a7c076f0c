"""``vea doctor CONFIG``: the prerequisites of a job, checked before it starts; nothing is downloaded.

Each room checks its own subject. One line per finding: ``ok``, ``warning`` (the job runs, perhaps not as meant),
``wrong`` (its numbers would not mean what they say) or ``missing`` (it would fail).
"""

from __future__ import annotations

import argparse
from importlib import import_module

from vea.config import RunConfig, load_config
from vea.config.findings import Finding

ROOMS = (
    "vea.data.check",
    "vea.models.teachers.check",
    "vea.faces.check",
    "vea.training.check",
    "vea.training.machine",
    "vea.distributed.check",
    "vea.storage.check",
)


def examine(config: RunConfig) -> list[Finding]:
    """Returns every finding about a config on this machine."""
    findings = [finding for room in ROOMS for finding in import_module(room).check(config)]
    # a model that cannot be built is said once, not by each check that wants its size
    return list({(finding.state, finding.text): finding for finding in reversed(findings)}.values())[::-1]


def main(argv: list[str]) -> int:
    """Prints the findings; returns 2 when something is missing or wrong, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="vea doctor", description="The prerequisites of a job, before it starts.")
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace those of the file")
    arguments = parser.parse_args(argv)
    findings = examine(load_config(arguments.config, arguments.overrides))
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        todo = f"  -> {finding.todo}" if finding.todo else ""
        print(f"{finding.state:<7}  {finding.what:<{width}}  {finding.text}{todo}")
    count = {state: sum(finding.state == state for finding in findings) for state in ("missing", "wrong", "warning")}
    wrong = f", {count['wrong']} wrong" if count["wrong"] else ""
    plural = "" if count["warning"] == 1 else "s"
    print(f"{count['missing']} missing{wrong}, {count['warning']} warning{plural}: {arguments.config}")
    return 2 if count["missing"] or count["wrong"] else 0
