"""``vea enrich PASS DIR``: results beside a prepared data set, in ``DIR/sidecars/NAME``; the images stay as they are.

    vea enrich persons data/emoset --backend onnx --weights human-centernet.onnx
    vea enrich teacher-image data/emoset --teacher ViT-B-16 --pretrained clip-vit-b16.safetensors --part 3/16
    vea enrich faces data/emoset --engine ray      # as many parts as there are cores, here or on RAY_ADDRESS

Run it again after a kill and it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from vea.config import PromptConfig, TeacherConfig
from vea.data.shards.index import read_index
from vea.enrich.prompts import Prompts
from vea.enrich.run import Pass, Summary, enrich, shards_of
from vea.enrich.teacher import TeacherImages, TeacherTexts
from vea.errors import VeaError, command


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/16")
    return int(found[1]), int(found[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vea enrich", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    passes = parser.add_subparsers(dest="enrichment", required=True, metavar="PASS")
    persons = passes.add_parser("persons", help="boxes of people, for the person view (data.train[].persons: NAME)")
    persons.add_argument("--backend", choices=["torchvision", "onnx"], required=True)
    persons.add_argument(
        "--weights", type=Path, help="file of the detector (torchvision: or what torch.hub has cached)"
    )
    persons.add_argument("--model", help="torchvision: the architecture, where the file's name does not say it")
    persons.add_argument("--class", type=int, default=0, dest="person", help="onnx: number of the class person (0)")
    faces = passes.add_parser("faces", help="boxes of faces")
    marks = passes.add_parser("landmarks", help="points, blendshapes and head poses of faces (vea[faces,landmarks])")
    marks.add_argument("--whole", action="store_true", help="the pictures are face crops: one face each, no search")
    marks.add_argument("--points", action="store_true", help="keep the 478 points as well, some 12 kB a face")
    for detector in (persons, faces, marks):
        detector.add_argument("--min-score", type=float, help="boxes below it are left out")
    prompts = passes.add_parser("prompts", help="the teacher's text of every sample")
    texts = passes.add_parser("teacher-text", help="embeddings of the prompts, each distinct prompt once")
    images = passes.add_parser("teacher-image", help="embeddings of the whole images (teacher.cache: image)")
    for prompting in (prompts, texts):
        prompting.add_argument("--source", choices=["auto", "caption", "attributes"], default="auto")
        prompting.add_argument("--no-emotion", action="store_true", help="leave the label out of the text")
    for teaching in (texts, images):
        teaching.add_argument("--teacher", required=True, help="as teacher.name of a config; tiny-synthetic ships")
        teaching.add_argument("--pretrained", help="as teacher.pretrained of a config")
    looking = passes.add_parser("saliency", help="where a ViT looks, for masks (data.train[].saliency: NAME)")
    looking.add_argument("--weights", type=Path, required=True, help="file of a ViT, such as DINOv2's")
    for any_pass in (persons, faces, marks, prompts, texts, images, looking):
        any_pass.add_argument("dir", metavar="DIR", help="folder with index.json")
        any_pass.add_argument("--name", help="of the sidecar (by default that of the pass)")
        any_pass.add_argument("--splits", nargs="+", default=[], metavar="SPLIT", help="only these (all)")
        any_pass.add_argument("--part", type=_part, metavar="I/N", help="the I-th of N parts")
        any_pass.add_argument("--engine", choices=["process", "ray"], default="process", help="ray: every part is a "
                              "task of Ray, here or on the cluster RAY_ADDRESS (needs vea[ray])")  # fmt: skip
        any_pass.add_argument("--jobs", type=int, metavar="N", help="ray: parts (as many as there is room for)")
        any_pass.add_argument("--batch-size", type=int, help="images per call of the model")
        any_pass.add_argument("--threads", type=int, help="of the CPU (all)")
        any_pass.add_argument("--device", default="cpu", help="cpu or cuda (persons by torchvision, teachers)")
    return parser


def _make_pass(arguments: argparse.Namespace) -> Pass:
    kind = arguments.enrichment
    if kind == "prompts":
        return Prompts(PromptConfig(source=arguments.source, emotion=not arguments.no_emotion))
    if kind.startswith("teacher"):
        teacher = TeacherConfig(name=arguments.teacher, pretrained=arguments.pretrained)
        if kind == "teacher-image":
            return TeacherImages(teacher, device=arguments.device)
        prompting = PromptConfig(source=arguments.source, emotion=not arguments.no_emotion)
        return TeacherTexts(teacher, prompting, device=arguments.device)
    if kind == "saliency":
        from vea.enrich.saliency import Saliency

        return Saliency(arguments.weights, device=arguments.device)
    from vea.enrich.faces import Faces
    from vea.enrich.persons import OnnxPersons, TorchvisionPersons

    score = {} if arguments.min_score is None else {"min_score": arguments.min_score}
    if kind == "faces":
        return Faces(**score)
    if kind == "landmarks":
        from vea.enrich.landmarks import FaceLandmarks

        read = {"whole": arguments.whole, "points": arguments.points, "threads": arguments.threads or 1}
        return FaceLandmarks(**score, **read)
    if arguments.backend == "torchvision":
        return TorchvisionPersons(arguments.weights, model=arguments.model, device=arguments.device, **score)
    if arguments.weights is None:
        raise VeaError("--backend onnx needs --weights FILE")
    return OnnxPersons(arguments.weights, person=arguments.person, threads=arguments.threads, **score)


def _enrich(arguments: argparse.Namespace, part: tuple[int, int]) -> Summary:
    """Returns what was done for one part, in this process."""
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    enrichment = _make_pass(arguments)
    enrichment.batch_size = arguments.batch_size or enrichment.batch_size
    return enrich(read_index(arguments.dir), enrichment, name=arguments.name, splits=arguments.splits, part=part)


def _enrich_by_ray(arguments: argparse.Namespace) -> Summary:
    """Returns what all parts did together, each a task of Ray; a part says so when it ends."""
    from vea.distributed.ray import room, run_tasks, session

    size = {"cpus": arguments.threads or 1, "gpus": int(arguments.device.startswith("cuda"))}
    jobs, started, whole = arguments.jobs, time.monotonic(), None
    with session(cpus=jobs and jobs * size["cpus"]) as ray:
        parts = min(jobs or room(ray, **size), len(shards_of(read_index(arguments.dir), splits=arguments.splits)))
        tasks = [(number, parts) for number in range(1, parts + 1)]
        name = "part {0[0]}/{0[1]}".format
        for part, done in run_tasks(partial(_enrich, arguments), tasks, name=name, **size):
            print(f"{name(part)}: {done.made} shards made, {done.images:,} samples", file=sys.stderr, flush=True)
            whole = done if whole is None else whole + done
    assert whole is not None, "a set has at least one shard"
    return replace(whole, seconds=time.monotonic() - started)


@command
def main(argv: list[str]) -> int:
    """Runs ``vea enrich``; undecodable images are counted and listed, and are no failure."""
    arguments = _parser().parse_args(argv)
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise VeaError("--batch-size starts at 1")
    if arguments.jobs is not None and (arguments.jobs < 1 or arguments.engine != "ray"):
        raise VeaError("--jobs goes with --engine ray and starts at 1")
    if arguments.engine == "ray":
        if arguments.part:
            raise VeaError("--engine ray does all parts: leave --part out")
        done = _enrich_by_ray(arguments)
    else:
        done = _enrich(arguments, arguments.part or (1, 1))
    rate = f", {done.images / done.seconds:.1f} a second" if done.images else ""
    print(f"{done.folder}: {done.made} shards made ({done.images:,} samples{rate}), {done.there_before} were there")
    if done.elsewhere:
        print(f"{done.elsewhere} shards are being made by other processes", file=sys.stderr)
    if done.skipped:
        print(f"{len(done.skipped)} images could not be decoded: {done.folder}/*.skipped.json lists them")
    return 0
