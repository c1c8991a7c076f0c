"""``vea doctor CONFIG``: everything that a job would miss, said at once and before it starts; nothing is downloaded.

One line per finding: ``ok``, ``warning`` (the job runs, perhaps not as meant) or ``missing`` (it would fail). The model
is built without memory (torch's meta device), so its sizes are exact; what it needs while training is an estimate.
"""

from __future__ import annotations

import argparse
import json
import netrc
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import vea
from vea.config import (
    DatasetRef,
    ExplainConfig,
    FinetuneConfig,
    ObjectiveConfig,
    PretrainConfig,
    RecogniseConfig,
    RunConfig,
    load_config,
)
from vea.data.shards.index import read_index
from vea.data.shards.reader import ShardReader
from vea.data.shards.sidecars import is_fetched, sidecar_folder
from vea.distributed.runtime import cpu_multiplies_bf16
from vea.errors import VeaError, did_you_mean
from vea.models.teachers import load, two_tower
from vea.models.uniemox import UniEmoX
from vea.storage import checkpoint, identity
from vea.storage.provenance import git_state
from vea.tasks.base import Task
from vea.tasks.explain import ExplainTask
from vea.tasks.pretrain import WITH_TEACHER, PretrainTask, needs_teacher
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import open_model
from vea.taxonomy.fields import check_same_classes
from vea.training.engine import micro_batch_size
from vea.training.run import check_same_run

State = Literal["ok", "warning", "missing"]
GB = 10**9
TEACHER_WIDTH = 512  # stands in for the teacher's own, which changes one small layer
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    state: State
    what: str
    text: str
    todo: str = ""

    @classmethod
    def of(cls, error: Exception, what: str) -> Finding:
        """Returns what is missing by an error made for people, ``what is wrong; what to do``."""
        text, _, todo = str(error).rpartition("; ")
        return cls("missing", what, text or todo, todo if text else "")


@dataclass(frozen=True)
class Sizes:
    """What the model of a config takes, in bytes: counted on the meta device, where nothing is computed."""

    weights: int
    trained: int  # of them
    activations: int  # kept for the backward pass, per sample, fp32


@dataclass
class Case:
    """A config and what the checks share."""

    config: RunConfig
    teacher_bytes: int = 0
    world_size: int = field(default_factory=lambda: world_size())

    @cached_property
    def task(self) -> Task:
        """The task of the config on the meta device; a pretraining task without its teacher."""
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights that are read have nowhere to go
            return build_task(self.config)

    @cached_property
    def sizes(self) -> Sizes:
        """Bytes of the task."""
        state = self.task.state_to_save()
        parameters = list(self.task.parameters())
        return Sizes(
            weights=sum(tensor.nbytes for tensor in state.values()),
            trained=sum(parameter.nbytes for parameter in parameters if parameter.requires_grad),
            activations=activation_bytes(self.task, self.config),
        )

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state: two moments a parameter, or one."""
        return (1 if self.config.train.optimizer in ("sgd", "muon") else 2) * self.sizes.trained

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of one checkpoint: weights, their average, the optimizer's state."""
        return self.sizes.weights * (2 if self.config.train.ema_decay else 1) + self.optimizer_bytes


def world_size() -> int:
    """Returns the number of ranks that the environment announces; 1 where it says nothing."""
    env = os.environ
    per_node = re.match(r"\d+", env.get("SLURM_NTASKS_PER_NODE", ""))  # "4(x2)"
    nodes = int(env.get("SLURM_JOB_NUM_NODES", 1))
    return int(env.get("WORLD_SIZE") or env.get("SLURM_NTASKS") or (int(per_node[0]) * nodes if per_node else 1))


# ------------------------------------------------------------------------------------------------------------ the model


def build_task(config: RunConfig) -> Task:
    """Returns the task; raises ``VeaError`` where the config's parts do not fit each other or the data."""
    if isinstance(config, PretrainConfig):
        objective = {name: 0 for name in WITH_TEACHER} | {"reconstruction": 1, "norm_pix": config.objective.norm_pix}
        alone = config.model_copy(update={"objective": ObjectiveConfig.model_validate(objective)})
        task = PretrainTask(alone, teacher=None)
        task.model = UniEmoX(
            config.model,
            image_size=config.augment.image_size,
            objective=config.objective,
            teacher_width=TEACHER_WIDTH if needs_teacher(config.objective) else None,
        )
        return task
    if isinstance(config, RecogniseConfig):
        from vea.training.finetune import label_fields

        return RecogniseTask(config, fields=label_fields(config))
    if isinstance(config, ExplainConfig):
        from vea.training.finetune import label_fields

        return ExplainTask(config, fields=label_fields(config))
    raise VeaError(f"the model of recipe {config.recipe!r} is not known to the doctor")


def activation_bytes(task: Task, config: RunConfig) -> int:
    """Returns the bytes that one sample's forward keeps for its backward pass in fp32, counted on the meta device.

    Of a model that explains it is the image encoder's alone: transformers' decoders do not run there.
    """
    own = {parameter.untyped_storage()._cdata for parameter in task.parameters()}
    kept: dict[int, Any] = {}  # storages, kept alive so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    size, batch = config.augment.image_size, 2  # batch norm wants two
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if isinstance(task, PretrainTask):
            views = torch.empty(batch, 3, size, size)
            outputs: Any = task.model(views, views, torch.empty(batch, 2, task.num_patches))
        elif isinstance(config, RecogniseConfig):
            encoder: Any = task.train().trunk()
            with torch.set_grad_enabled(config.model.train != "linear"):
                outputs = getattr(encoder, "forward_features", encoder)(
                    torch.empty(batch, config.model.channels, size, size)
                )
        elif isinstance(task, ExplainTask):
            outputs = task.train().encode(torch.empty(batch, 3, size, size))
        total = sum(storage.nbytes() for storage in kept.values())
        del outputs  # lived until here, and with it what is counted
    return total // batch


# ------------------------------------------------------------------------------------------------------------- the data


def check_data(case: Case) -> Iterator[Finding]:
    """Yields one finding per data set and split: index, split, samples, every shard and its offsets."""
    data = case.config.data
    if not data.train:
        yield Finding("missing", "data.train", "no training data is named", "set data.train=[{path: data/NAME}]")
    for role, refs in (("train", data.train), ("val", data.val)):
        for ref in refs:
            yield from _check_set(ref, what=f"data.{role}")


def _check_set(ref: DatasetRef, *, what: str) -> Iterator[Finding]:
    try:
        index = read_index(ref.path)
        entry = index.split(ref.split)
        name = f"{ref.path} {ref.split}"
        if "://" in ref.path:
            yield Finding("ok", what, f"{name}: {entry['samples']:,} samples, remote: shards are not looked at")
            return
        bad = {}
        for shard in entry["shards"]:
            path = Path(index.root) / shard["file"]
            if not path.is_file():
                bad[path.name] = "is not there"
            elif path.stat().st_size != shard["bytes"]:
                bad[path.name] = f"has {path.stat().st_size:,} bytes, the index says {shard['bytes']:,}"
            elif not path.with_suffix(".idx").is_file():
                bad[path.with_suffix(".idx").name] = "is not there"
        if bad:
            first = next(iter(bad))
            text = f"{name}: {len(bad)} of {len(entry['shards'])} shards are damaged, {first} {bad[first]}"
            yield Finding("missing", what, text, "copy or prepare the data set again")
            return
        samples = len(ShardReader(ref.path, ref.split))
        drawn = " (synthetic)" if index.synthetic else ""
        yield Finding("ok", what, f"{name}: {samples:,} samples in {len(entry['shards'])} shards{drawn}")
    except VeaError as error:
        yield Finding.of(error, what)


def check_labels(case: Case) -> Iterator[Finding]:
    """Yields whether the targets are labels of every set, with the same classes in the same order."""
    config = case.config
    if not isinstance(config, FinetuneConfig):
        return
    from vea.training.finetune import label_fields

    fields = label_fields(config)
    for name in config.labels:
        if name not in fields:
            near = did_you_mean(name, fields)
            yield Finding("missing", "targets", f"the data has no label {name!r}{near}", "change targets or the data")
        else:
            classes = f", {len(fields[name].classes)} classes" if fields[name].classes else ""
            yield Finding("ok", "targets", f"{name}: {fields[name].kind}{classes}")


def check_sidecars(case: Case) -> Iterator[Finding]:
    """Yields whether the files that an enrichment pass writes beside the shards are there, where they are asked for."""
    teacher = getattr(case.config, "teacher", None)
    if teacher is None or teacher.cache != "image":
        return
    for ref in [*case.config.data.train, *case.config.data.val]:
        reader = ShardReader(ref.path, ref.split)
        folder = sidecar_folder(reader.index, "teacher_image") or Path(reader.root) / "sidecars/teacher_image"
        if is_fetched(folder):
            yield Finding("ok", "sidecars", f"teacher_image of {ref.path} {ref.split}: fetched as it is read")
            continue
        files = [(folder / shard["file"]).with_suffix(".npy") for shard in reader.shards]
        lost = [file for file in files if not file.is_file()]
        if lost:
            text = f"teacher_image of {ref.path} {ref.split}: {len(lost)} of {len(files)} files, first {lost[0]}"
            yield Finding("missing", "sidecars", text, "write the sidecar, or set teacher.cache=none")
        else:
            yield Finding("ok", "sidecars", f"teacher_image of {ref.path} {ref.split}: {len(files)} files")


# ---------------------------------------------------------------------------------------------------------- the weights


def check_teacher(case: Case) -> Iterator[Finding]:
    """Yields whether the teacher's weights and its tokenizer's files are on this machine."""
    config = case.config
    if not isinstance(config, PretrainConfig):
        return
    if config.teacher is None or not needs_teacher(config.objective):
        if needs_teacher(config.objective):
            yield Finding("missing", "teacher", "the objective compares with a teacher and teacher is null",
                          "name one, for instance teacher.name=tiny-synthetic")  # fmt: skip
        else:
            yield Finding("ok", "teacher", "the objective needs none")
        return
    name, pretrained = config.teacher.name, config.teacher.pretrained
    folder = identity.TINY_SYNTHETIC if name == "tiny-synthetic" else Path(name)
    if folder.is_dir() and pretrained is not None:
        raise VeaError(f"teacher {name} brings its own weights ({pretrained} is named beside); set it to null")
    found = _folder_teacher(folder) if folder.is_dir() else _named_teacher(name, pretrained)
    for what, file in found:
        if isinstance(file, Finding):
            yield file
            continue
        size = _whole(file)
        case.teacher_bytes += size if what == "teacher" else 0
        yield Finding("ok", what, f"{file} ({size / 1e6:.1f} MB)")


def check_distill(case: Case) -> Iterator[Finding]:
    """Yields whether the recognisers that a run imitates can be opened."""
    if isinstance(case.config, RecogniseConfig):
        for name in case.config.distill.models:
            known = open_model(name).task.fields
            yield Finding("ok", "distill", f"{name} knows {', '.join(known)}")


def _whole(path: Path) -> int:
    """Returns the bytes of a weight file; raises ``VeaError`` when there is none or its header cannot be read."""
    if not path.is_file() or not path.stat().st_size:
        raise VeaError(f"no weights at {path}; put the file there")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise VeaError(f"{path} is broken ({error}); copy it again") from None
    return path.stat().st_size


Files = Iterator[tuple[str, Path | Finding]]


def _folder_teacher(folder: Path) -> Files:
    if (folder / "open_clip_config.json").is_file():
        weights = [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin", ".pth")]
        yield "teacher", weights[0] if weights else folder / WEIGHT_FILES[0]
        cfg = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
        yield from _tokenizer((cfg.get("model_cfg") or cfg).get("text_cfg", {}), folder=folder)
        return
    config = load.read_teacher_config(folder)
    yield "teacher", folder / two_tower.WEIGHTS_NAME
    if config["kind"] == "open_clip":
        yield "tokenizer", folder / config["vocabulary"]
        return
    image, text = config["image_tower"], config["text_tower"]
    towers = (
        two_tower.data_file(image["weights"]),
        two_tower.text_tower_folder(text["package"]) / two_tower.WEIGHTS_NAME,
    )
    for path, tower in zip(towers, (image, text)):
        yield "teacher", path
        if path.is_file() and tower.get("sha256") not in (None, identity.file_sha256(path)):
            yield "teacher", Finding("missing", "teacher", f"{path} is not the file the teacher was trained on",
                                     "put that file there, or train the teacher again")  # fmt: skip
    yield "tokenizer", next((towers[1].parent / name for name in TOKENIZER_FILES if (towers[1].parent / name).exists()),
                            towers[1].parent / TOKENIZER_FILES[0])  # fmt: skip


def _named_teacher(name: str, pretrained: str | None) -> Files:
    import open_clip

    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        yield "teacher", _cached(repository, WEIGHT_FILES, what="teacher")
        config = _cached(repository, ("open_clip_config.json",), what="teacher")
        yield "tokenizer", config if isinstance(config, Finding) else _cached(repository, TOKENIZER_FILES)
        return
    if name not in open_clip.list_models():
        near = did_you_mean(name, open_clip.list_models())
        raise VeaError(
            f"teacher.name {name!r} is neither a model of open_clip nor a folder{near if '(did' in near else ''}; "
            "name one, or tiny-synthetic for a trial"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        example = f" or a tag ({', '.join(tags[:3])} ...)" if tags else ""
        yield "teacher", Finding("missing", "teacher", f"{name} has no weights",
                                 f"set teacher.pretrained to a local file{example}")  # fmt: skip
    elif pretrained in tags and not Path(pretrained).is_file():
        source = open_clip.get_pretrained_cfg(name, pretrained)
        repository, file = os.path.split(source.get("hf_hub", ""))
        if repository:
            yield "teacher", _cached(repository, (file,) if file else WEIGHT_FILES, what="teacher")
        else:
            yield "teacher", Path("~/.cache/clip").expanduser() / os.path.basename(source.get("url", ""))
    else:
        yield "teacher", Path(pretrained)
    yield from _tokenizer((open_clip.get_model_config(name) or {}).get("text_cfg", {}), folder=None)


def _tokenizer(text_cfg: dict[str, Any], *, folder: Path | None) -> Files:
    """Yields the files of the tokenizer that open_clip would open."""
    name = text_cfg.get("hf_tokenizer_name") or text_cfg.get("hf_model_name")
    if not name:  # open_clip's own, which comes with it
        import open_clip

        yield "tokenizer", Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    elif folder and (beside := [folder / file for file in TOKENIZER_FILES if (folder / file).is_file()]):
        yield "tokenizer", beside[0]
    else:
        yield "tokenizer", _cached(name, TOKENIZER_FILES)
    if text_cfg.get("hf_model_name"):
        yield "tokenizer", _cached(text_cfg["hf_model_name"], ("config.json",))


def _cached(repository: str, names: tuple[str, ...], *, what: str = "tokenizer") -> Path | Finding:
    """Returns the first of ``names`` in the local cache of the hub, or what is missing."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    todo = "load it once with HF_HUB_OFFLINE=0 where there is a network, or name a local file or folder"
    return Finding("missing", what, f"{repository} is not in the local cache of the hub ({names[0]})", todo)


def check_model(case: Case) -> Iterator[Finding]:
    """Yields whether the model can be built, and its size."""
    if not isinstance(case.config, (PretrainConfig, RecogniseConfig, ExplainConfig)):
        yield Finding("warning", "model", f"the doctor does not know the model of recipe {case.config.recipe!r}")
        return
    sizes = case.sizes
    pretrained = getattr(case.config.model.encoder, "pretrained", None)
    beside = f", encoder from {pretrained}" if pretrained else ""
    text = f"{sizes.weights / 4e6:.2f} M parameters, {sizes.trained / 4e6:.2f} M of them trained{beside}"
    yield Finding("ok", "model", text)
    micro, accumulate = micro_batch_size(case.config, case.world_size)
    ranks = f"{case.world_size} rank{'s' if case.world_size > 1 else ''}"
    yield Finding("ok", "batch", f"{case.config.data.global_batch_size} = {ranks} x {accumulate} x {micro} samples")


def check_init_from(case: Case) -> Iterator[Finding]:
    """Yields whether ``train.init_from`` fits the encoder, and whether its classes are those of the data."""
    path = case.config.train.init_from
    if path is None:
        return
    weights_folder = checkpoint.find_weights(path) if not Path(path).is_file() else Path(path)
    if not isinstance(case.task, (PretrainTask, RecogniseTask)):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is copied into a model without memory
        yield Finding("ok", "init_from", f"{weights_folder}: {case.task.load_pretrained(path)}")
    beside = weights_folder / "state.json" if weights_folder.is_dir() else weights_folder.with_name("state.json")
    theirs = json.loads(beside.read_text(encoding="utf-8")).get("task", {}) if beside.is_file() else {}
    fields = case.task.fields if isinstance(case.task, RecogniseTask) else {}
    for name in sorted(set(theirs.get("classes", {})) & set(fields)):
        try:
            check_same_classes(theirs["classes"][name], fields[name].classes, f"label {name!r}")
        except VeaError as error:
            yield Finding("warning", "init_from", f"other classes than the data: {error}",
                          "only its encoder is taken, the heads start anew")  # fmt: skip


def check_resume(case: Case) -> Iterator[Finding]:
    """Yields from which checkpoint the run would go on, and whether that is the same run."""
    resume, run_dir = case.config.train.resume, case.config.run_dir
    found = checkpoint.list_checkpoints(run_dir)
    if resume in ("auto", "never"):
        chosen = found[-1].path if found and resume == "auto" else None
    else:
        chosen = Path(resume)
    if chosen is not None:
        check_same_run(chosen, config=case.config)
        if isinstance(case.task, RecogniseTask):  # a pretraining task would want its teacher for that
            case.task.check_metadata(json.loads((chosen / "state.json").read_text(encoding="utf-8")).get("task", {}))
        yield Finding("ok", "resume", f"goes on from {chosen}")
    elif found:
        yield Finding("ok", "resume", f"starts anew; {run_dir} is kept beside it")


# ---------------------------------------------------------------------------------------------------------- the machine


def check_output(case: Case) -> Iterator[Finding]:
    """Yields whether the run folder can be written, and whether the disk holds its checkpoints."""
    run_dir = case.config.run_dir.absolute()
    there = next(folder for folder in (run_dir, *run_dir.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Finding(
            "missing", "output", f"{there} cannot be written ({error.strerror})", "change out=, or its rights"
        )
        return
    yield Finding("ok", "output", str(case.config.run_dir))
    train = case.config.train
    number = train.keep_last + 1 + (train.steps // train.keep_every if train.keep_every else 0)
    kept = sum(path.stat().st_size for path in run_dir.glob("checkpoints/*/*") if path.is_file())
    weights = case.sizes.weights * (4 if train.ema_decay else 2)  # best/ and final/
    needed, free = number * case.checkpoint_bytes + weights, shutil.disk_usage(there).free + kept
    text = f"{free / GB:.1f} GB free, {needed / GB:.2f} GB for {number} checkpoints and the weights chosen"
    if free < needed:
        yield Finding("missing", "disk", text, "free space, choose another out=, or lower train.keep_last")
    elif free < 2 * needed:
        yield Finding("warning", "disk", text, "watch it: the runs beside it write as well")
    else:
        yield Finding("ok", "disk", text)


def check_device(case: Case) -> Iterator[Finding]:
    """Yields the device that the run would take here, its precision, and a rough estimate of memory."""
    wanted, precision = case.config.runtime.device, case.config.train.precision
    gpu = torch.cuda.is_available()
    if wanted == "cuda" and not gpu:
        yield Finding("missing", "device", "runtime.device is cuda and this machine shows no GPU",
                      "ask for one (--gpus-per-node), or set runtime.device=cpu")  # fmt: skip
        return
    if wanted == "cpu" or not gpu:
        yield Finding("ok", "device", f"CPU, {os.cpu_count()} cores" + ("" if wanted == "cpu" else " (no GPU here)"))
        if precision == "bf16" and not cpu_multiplies_bf16():
            text = "this CPU does not multiply bf16 itself (no AVX-512 BF16, no AMX); fp32 is faster"
            yield Finding("warning", "precision", text, "set train.precision=auto")
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        there, bf16 = int(_meminfo().get("MemAvailable", pages)), precision == "bf16"
    else:
        name, there = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        yield Finding("ok", "device", f"{torch.cuda.device_count()} x {name}")
        supported = torch.cuda.is_bf16_supported()
        if precision == "bf16" and not supported:
            yield Finding("warning", "precision", f"{name} has no bf16", "set train.precision=auto")
        bf16 = precision == "bf16" or (precision == "auto" and supported)
    micro, _ = micro_batch_size(case.config, case.world_size)
    sizes = case.sizes
    fixed = sizes.weights * (2 if case.config.train.ema_decay else 1) + sizes.trained + case.optimizer_bytes
    needed = fixed + case.teacher_bytes + micro * sizes.activations * (0.6 if bf16 else 1.0)  # autocast keeps some fp32
    text = f"about {needed / GB:.1f} GB of {there / GB:.1f} GB for {micro} samples at a time (an estimate)"
    if needed > 0.9 * there:
        todo = f"set train.max_micro_batch to {max(1, int(micro * 0.7 * there / needed))} or less"
        yield Finding("warning", "memory", text, todo)
    else:
        yield Finding("ok", "memory", text)


def _meminfo() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


def check_versions(case: Case) -> Iterator[Finding]:
    """Yields packages that do not meet vea's requirements, and those of another version than the tests ran with."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires("vea") or []]
    except metadata.PackageNotFoundError:
        yield Finding("warning", "versions", "vea is not installed, only found", "pip install -e .")
        requirements = []
    for requirement in requirements:
        if requirement.marker is None and (bad := _unmet(requirement)):
            yield Finding("missing", "versions", bad, f"pip install '{requirement}'")
    pinned = Path(vea.__file__).resolve().parents[1] / "constraints.txt"
    lines = pinned.read_text(encoding="utf-8").splitlines() if pinned.is_file() else []
    for requirement in [Requirement(line) for line in lines if line and not line.startswith("#")]:
        if bad := _unmet(requirement):
            yield Finding("warning", "versions", f"{bad}, with which the tests run", f"pip install '{requirement}'")
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm", "open_clip_torch"))
    yield Finding("ok", "versions", f"vea {vea.__version__}, {shown}")


def _unmet(requirement: Any) -> str:
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    plain = found.partition("+")[0]  # 2.14.1+cpu is 2.14.1
    return (
        ""
        if requirement.specifier.contains(plain, prereleases=True)
        else f"{requirement.name} {found}, not {requirement.specifier}"
    )


def check_slurm(case: Case) -> Iterator[Finding]:
    """Yields the shape of the SLURM job that this is part of, if any."""
    env = os.environ
    if "SLURM_JOB_ID" not in env:
        return
    nodes, per_node = env.get("SLURM_JOB_NUM_NODES", "?"), case.world_size // int(env.get("SLURM_JOB_NUM_NODES", 1))
    yield Finding("ok", "slurm", f"job {env['SLURM_JOB_ID']}: {nodes} nodes, {case.world_size} ranks")
    if torch.cuda.is_available() and per_node > torch.cuda.device_count() and case.config.runtime.device != "cpu":
        yield Finding("warning", "slurm", f"{per_node} ranks a node and {torch.cuda.device_count()} GPUs in sight",
                      "ask for one GPU per task")  # fmt: skip
    if env.get("SLURM_RESTART_COUNT", "0") != "0":
        yield Finding("ok", "slurm", f"this is restart {env['SLURM_RESTART_COUNT']}")


def check_tracking(case: Case) -> Iterator[Finding]:
    """Yields whether the tracker is installed and, where it goes online, has a key."""
    tracking = case.config.tracking
    if tracking.backend == "none":
        yield Finding("ok", "tracking", "metrics.jsonl only")
        return
    if find_spec(tracking.backend) is None:
        todo = f"pip install {tracking.backend}, or set tracking.backend=none"
        yield Finding("warning", "tracking", f"{tracking.backend} is not installed; metrics.jsonl has everything", todo)
        return
    mode = os.environ.get("WANDB_MODE", tracking.mode) if tracking.backend == "wandb" else tracking.mode
    if tracking.mode == "online" and mode != "online":
        text = f"WANDB_MODE={mode} stands against tracking.mode: online"
        yield Finding("warning", "tracking", text, "unset WANDB_MODE, or set tracking.mode=offline")
    if tracking.backend == "wandb" and tracking.mode == "online" and not _has_wandb_key():
        yield Finding("missing", "tracking", "wandb is online and has no key", "wandb login, or tracking.mode=offline")
    else:
        yield Finding("ok", "tracking", f"{tracking.backend}, {tracking.mode}")


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host.partition(":")[0]) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def check_git(case: Case) -> Iterator[Finding]:
    """Yields the state of the code, which a checkpoint records."""
    state = git_state()
    changed = len(state.get("changed_files", "").splitlines())
    if not state.get("commit"):
        yield Finding("warning", "git", "the code is in no git repository: a run cannot say what made it")
    elif changed:
        yield Finding("warning", "git", f"{state['commit'][:10]} and {changed} changed files", "commit them")
    else:
        yield Finding("ok", "git", state["commit"][:10])


CHECKS = {
    "data": check_data,
    "targets": check_labels,
    "sidecars": check_sidecars,
    "teacher": check_teacher,
    "distill": check_distill,
    "model": check_model,
    "init_from": check_init_from,
    "resume": check_resume,
    "output": check_output,
    "device": check_device,
    "versions": check_versions,
    "slurm": check_slurm,
    "tracking": check_tracking,
    "git": check_git,
}


def examine(config: RunConfig) -> list[Finding]:
    """Returns every finding about a config on this machine; one check that fails leaves the others alone."""
    case, findings = Case(config), []
    for what, check in CHECKS.items():
        try:
            findings += list(check(case))
        except (VeaError, OSError) as error:
            findings.append(Finding.of(error, what))
        except Exception as error:  # a mistake of the doctor's own must not keep a good job from starting
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            findings.append(Finding("warning", what, f"this could not be looked at ({reason})"))
    # a model that cannot be built is said once, not by each check that wants its size
    return list({(finding.state, finding.text): finding for finding in reversed(findings)}.values())[::-1]


def main(argv: list[str]) -> int:
    """Prints the findings; returns 2 when something is missing, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="vea doctor", description="What a job would miss, before it starts.")
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace those of the file")
    arguments = parser.parse_args(argv)
    findings = examine(load_config(arguments.config, arguments.overrides))
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        todo = f"  -> {finding.todo}" if finding.todo else ""
        print(f"{finding.state:<7}  {finding.what:<{width}}  {finding.text}{todo}")
    count = {state: sum(finding.state == state for finding in findings) for state in ("missing", "warning")}
    plural = "" if count["warning"] == 1 else "s"
    print(f"{count['missing']} missing, {count['warning']} warning{plural}: {arguments.config}")
    return 2 if count["missing"] else 0
