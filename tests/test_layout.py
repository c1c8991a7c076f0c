"""Where things live and which way imports run: the rules of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("pretrain", "finetune", "datasets", "tests", "benchmarks")  # folders that vea/ knows nothing of
SOURCES = sorted(
    path for folder in ("vea", *OUTSIDE, "slurm") for path in (ROOT / folder).rglob("*.py") if ".venv" not in path.parts
)
IN_VEA = [path for path in SOURCES if path.is_relative_to(ROOT / "vea")]

# Lower floors first: a module may import its own floor and those below. Folders decide; the lazy face in vea/__init__
# is the one exception.
FLOORS = [
    {"errors", "progress"},
    {"config", "taxonomy"},
    {"storage", "distributed"},
    {"losses", "metrics"},
    {"data"},
    {"models", "faces"},
    {"enrich"},
    {"tasks"},
    {"training"},
    {"inference", "evals", "publish"},
    {"commands"},
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


@dataclass(frozen=True)
class Import:
    """``name`` is what is imported, with its dots; ``line`` where."""

    name: str
    line: int


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_in(tree: ast.AST, *, package: str, known: frozenset[str] = frozenset()) -> list[Import]:
    """Returns every import, lazy ones as well; ``from vea.training import log`` counts as vea.training.log."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append(Import(full if full in known else base, node.lineno))
    return found


KNOWN = frozenset(module_name(path) for path in IN_VEA)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return tuple(imports_in(tree_of(path), package=package, known=KNOWN))


def floor_of(module: str) -> int:
    room = module.split(".")[1]
    assert room in FLOOR, f"{module} is in no room: name its folder in FLOORS and in docs/architecture.md"
    return FLOOR[room]


# What puts a task into the loop, and what looks at one beforehand.
AROUND_THE_LOOP = {f"vea.training.{name}" for name in ("finetune", "meta", "check", "machine")}


def allowed(importer: str, imported: str) -> bool:
    if "vea" in (importer, imported):
        return True  # vea/__init__.py is lazy and holds the version
    if importer.startswith("vea.training.") and importer not in AROUND_THE_LOOP:
        # the one loop knows the Task protocol, and no task, model or data
        room = imported.split(".")[1]
        return room == "training" or imported == "vea.tasks.base" or floor_of(imported) <= FLOOR["metrics"]
    return floor_of(imported) <= floor_of(importer)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_sources_are_found():
    assert len(IN_VEA) > 20
    assert {"vea.training.engine", "vea.data.shards.index", "vea.tasks.base"} <= KNOWN
    assert any(path.parts[-2:] == ("pretrain", "train.py") for path in SOURCES)


def test_every_module_is_in_a_room():
    assert all(floor_of(name) >= 0 for name in KNOWN - {"vea"})
    assert len(list((ROOT / "vea").glob("*.py"))) <= 5, "the top of vea/ is for the face, errors and progress"


def test_imports_run_one_way():
    wrong = [
        f"{where(path, item.line)} {module_name(path)} imports {item.name}"
        for path in IN_VEA
        for item in imports_of(path)
        if item.name.split(".")[0] == "vea" and not allowed(module_name(path), item.name)
    ]
    assert not wrong, "\n".join(["imports that run upwards:", *wrong])


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("vea.losses.contrastive", "vea.distributed.collectives", True),
        ("vea.losses.contrastive", "vea.tasks.base", False),
        ("vea.taxonomy.fields", "vea.data.sample", False),
        ("vea.training.engine", "vea.tasks.base", True),
        ("vea.training.engine", "vea.tasks.pretrain", False),
        ("vea.training.engine", "vea.models.mim", False),
        ("vea.training.engine", "vea.data.loading.loader", False),
        ("vea.inference.predict", "vea.storage.checkpoint", True),
        ("vea.tasks.recognise", "vea.training.engine", False),
        ("vea.publish.report.page", "vea.commands.main", False),
        ("vea.storage.checkpoint", "vea.losses.affect", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, expected: bool):
    assert allowed(importer, imported) is expected


def test_imports_are_read_in_all_their_forms():
    lines = ["import a.b", "from vea.training import log", "from . import order", "from ...tasks import base"]
    code = "\n".join([*lines, "def f():", "    import c"])
    known = frozenset({"vea.training.log", "vea.data.loading.order", "vea.tasks.base"})
    found = imports_in(ast.parse(code), package="vea.data.loading", known=known)
    assert {item.name for item in found} == {"a.b", "vea.training.log", "vea.data.loading.order", "vea.tasks.base", "c"}


def test_vea_imports_nothing_of_the_folders_below_it():
    wrong = [where(p, i.line) for p in IN_VEA for i in imports_of(p) if i.name.split(".")[0] in OUTSIDE]
    assert not wrong, wrong


def test_recipes_import_neither_each_other_nor_datasets():
    recipes = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("pretrain", "finetune", "datasets")]
    siblings = {path.stem for path in recipes} | set(OUTSIDE)
    wrong = [f"{where(p, i.line)} {i.name}" for p in recipes for i in imports_of(p) if i.name.split(".")[0] in siblings]
    assert not wrong, wrong


def test_folders_of_recipes_are_not_packages():
    assert not [str(p) for folder in ("pretrain", "finetune", "datasets") for p in (ROOT / folder).rglob("__init__.py")]


def test_only_colour_imports_albumentations():
    users = {p.relative_to(ROOT).as_posix() for p in SOURCES for i in imports_of(p) if "albumentations" in i.name}
    assert users <= {"vea/data/views/colour.py", "benchmarks/loader.py"}  # the benchmark measures the way others use it
    assert users, "vea/data/views/colour.py no longer imports albumentations: this rule can go"


def test_no_pickle_is_ever_loaded():
    calls, wrong = 0, []
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            name = f"{owner}.{node.func.attr}"
            if name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load"):
                # a round trip of what the test itself pickled is no foreign file
                if path.relative_to(ROOT).parts[0] != "tests":
                    wrong.append(f"{where(path, node.lineno)} {name}")
            elif name == "torch.load":
                calls += 1
                safe = any(
                    k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True
                    for k in node.keywords
                )
                if not safe:
                    wrong.append(f"{where(path, node.lineno)} torch.load without weights_only=True")
    assert not wrong, "\n".join(wrong)
    assert calls, "no torch.load found: does the reading of checkpoints still go through torch.load?"


OWNERS = {"rename", "renames", "replace", "remove", "unlink", "rmdir", "rmtree", "move", "flock", "lockf"}


def test_only_storage_renames_deletes_and_locks():
    """Functions of ``os``, ``shutil`` and ``fcntl``, methods that only paths have, ``replace`` of one argument."""
    wrong = []
    for path in IN_VEA + [p for p in SOURCES if p.relative_to(ROOT).parts[0] in ("pretrain", "finetune", "datasets")]:
        if path.is_relative_to(ROOT / "vea" / "storage"):
            continue
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, name = ast.unparse(node.func.value), node.func.attr
            of_module = owner in ("os", "shutil", "fcntl") and name in OWNERS
            of_path = name in ("unlink", "rmdir", "rename") or (name == "replace" and len(node.args) == 1)
            if of_module or (of_path and owner not in ("atomic", "dataclasses") and not node.keywords):
                wrong.append(f"{where(path, node.lineno)} {owner}.{name}")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_named_after_nothing():
    names = {"utils", "util", "misc", "helpers", "helper", "common"}
    assert not [p.relative_to(ROOT).as_posix() for p in SOURCES if p.stem in names or p.parent.name in names]


def test_no_script_is_named_after_a_dependency():
    """A script's own folder is sys.path[0]: finetune/torch.py would hide torch from every script beside it."""
    scripts = [p for p in SOURCES if p.relative_to(ROOT).parts[0] in ("pretrain", "finetune", "datasets", "benchmarks")]
    dependencies = {"torch", "torchvision", "timm", "open_clip", "webdataset", "albumentations", "wandb", "yaml", "cv2"}
    dependencies |= {"torchmetrics", "pydantic", "numpy", "transformers", "datasets", "rich", "matplotlib", "vea"}
    taken = dependencies | set(sys.stdlib_module_names)
    assert not [p.relative_to(ROOT).as_posix() for p in scripts if p.stem in taken]


MAX_LINES, MAX_FUNCTION = 400, 60  # a file is less than this, and so is a function: they can be read at once
MEASURED = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("vea", "pretrain", "finetune", "datasets")]


def long_parts(path: Path, tree: ast.Module, text: str) -> dict[str, int]:
    """Returns {file, or file and function: lines} of what is too long."""
    name = path.relative_to(ROOT).as_posix()
    found = {name: len(text.splitlines())} if len(text.splitlines()) >= MAX_LINES else {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            found |= {f"{name} {node.name}": lines} if lines >= MAX_FUNCTION else {}
    return found


def test_files_and_functions_are_short():
    found: dict[str, int] = {}
    for path in MEASURED:
        found |= long_parts(path, tree_of(path), path.read_text(encoding="utf-8"))
    assert not found


def test_what_is_long_is_found():
    body = "\n".join("    x = 1" for _ in range(MAX_LINES))
    text = f"def f():\n{body}\n"
    path = ROOT / "vea/toy.py"
    assert long_parts(path, ast.parse(text), text) == {"vea/toy.py": MAX_LINES + 1, "vea/toy.py f": MAX_LINES + 1}
    assert long_parts(path, ast.parse("x = 1\n"), "x = 1\n") == {}


def misplaced(test: Path, *, top: Path, rooms: Path) -> str:
    """Returns what is wrong with the place or the name of a test; it mirrors the module that it tests, or its room."""
    folder = test.parent.relative_to(top)
    room = ROOT / folder if folder.parts[:1] == ("benchmarks",) else rooms / folder
    name = test.stem.removeprefix("test_")
    if not room.is_dir():
        return f"{room.relative_to(ROOT)} is no folder"
    if (room / f"{name}.py").is_file() or (room / name).is_dir() or name == room.name:
        return ""
    return f"{room.relative_to(ROOT)} has no module {name}"


def test_unit_tests_mirror_the_rooms():
    top = ROOT / "tests/unit"
    tests = sorted(top.rglob("test_*.py"))
    assert len(tests) > 30
    found = {test.relative_to(ROOT).as_posix(): misplaced(test, top=top, rooms=ROOT / "vea") for test in tests}
    assert not {name: text for name, text in found.items() if text}


@pytest.mark.parametrize(
    ("test", "wrong"),
    [
        ("config/test_load.py", ""),
        ("config/test_config.py", ""),
        ("publish/test_report.py", ""),
        ("config/test_nothing.py", "vea/config has no module nothing"),
        ("attic/test_load.py", "vea/attic is no folder"),
    ],
)
def test_the_rule_of_mirrors(test: str, wrong: str):
    top = ROOT / "tests/unit"
    assert misplaced(top / test, top=top, rooms=ROOT / "vea") == wrong


FILE_NAME = re.compile(r"(?<![\w/.*{<])[\w-]+\.(?:py|sh|sbatch|css|md|yaml)\b")


def named_in_tree(page: str) -> dict[str, list[str]]:
    """Returns {folder: file names} of the drawing under ``## Tree``: a line begins with its folder, or goes on."""
    drawing = page.partition("## Tree\n")[2].partition("```\n")[2].partition("```")[0]
    named: dict[str, list[str]] = {}
    folder = ""
    for line in drawing.splitlines():
        if line and not line.startswith(" "):
            folder = line.split()[0]
            assert folder.endswith("/") and folder not in named, f"a line of the tree begins with its folder: {line}"
        named[folder] = named.get(folder, []) + FILE_NAME.findall(line)
    return named


def test_the_tree_of_the_architecture_is_the_tree():
    named = named_in_tree((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
    lost = [folder + file for folder, files in named.items() for file in files if not (ROOT / folder / file).is_file()]
    lost += [folder for folder in named if not (ROOT / folder).is_dir()]
    assert not lost, f"docs/architecture.md names what is not there: {lost}"
    rooms = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in IN_VEA}
    assert not rooms - set(named), "folders that docs/architecture.md does not name"


def run_python(code: str, *, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_import_of_vea_is_quick_and_has_no_torch(tmp_path: Path):
    heavy = ["torch", "timm", "albumentations", "transformers", "wandb"]
    code = f"import sys, vea; print([name for name in {heavy} if name in sys.modules])"
    seconds = []
    for _ in range(7):  # the best of seven: other processes of the machine are not what is measured
        start = time.perf_counter()
        result = run_python(code, cwd=tmp_path)
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == "[]"
    assert min(seconds) < 0.3, f"import vea takes {min(seconds):.2f} s"


def test_help_of_the_command_has_no_torch(tmp_path: Path):
    code = "import sys; from vea.commands.main import main; assert main([]) == 0; assert 'torch' not in sys.modules"
    result = run_python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "usage: vea" in result.stdout


HEAVY = {"datasets/prepare.py": ["torch", "scipy.stats"], "finetune/train.py": ["torchmetrics", "scipy.stats"]}


@pytest.mark.parametrize("script", HEAVY)
def test_scripts_begin_without_what_they_may_never_use(script: str):
    """Each costs a second or more in every process of a run."""
    code = f"import runpy, sys; runpy.run_path('{script}'); print([n for n in {HEAVY[script]} if n in sys.modules])"
    result = run_python(code, cwd=ROOT, path=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_an_installed_datasets_package_is_not_hidden(tmp_path: Path):
    """Python looks in the current folder first: a datasets/__init__.py would hide Hugging Face's package there."""
    package = tmp_path / "datasets"
    package.mkdir()
    (package / "__init__.py").write_text("load_dataset = 'the installed one'\n")
    result = run_python("import datasets; print(datasets.load_dataset)", cwd=ROOT, path=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "the installed one"
