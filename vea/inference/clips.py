"""What is written while videos are read: rows, a page of timelines, the videos with boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vea.errors import RunError, VeaError
from vea.inference.annotate import VideoAnnotator, free_name
from vea.publish.report.timeline import Timeline, write_timelines
from vea.storage.atomic import new_file

if TYPE_CHECKING:
    from vea.inference.predict import Predictor
    from vea.inference.video import Row

Clip = Path | int


@dataclass
class Outputs:
    """Where to write beside the rows: ``annotate`` is a video file or a folder, ``report`` a page."""

    annotate: Path | None = None
    report: Path | None = None

    def check(self, clips: Sequence[Clip]) -> None:
        """Refuses what cannot be written, before anything is read.

        Raises:
            VeaError: says why.
        """
        if self.report and (self.report.is_dir() or self.report.suffix.lower() not in (".html", ".htm")):
            raise VeaError(f"--report {self.report}: name a file that ends in .html")
        if not self.annotate:
            return
        if any(isinstance(clip, int) for clip in clips):
            raise VeaError("--annotate reads a video a second time, which no camera lets; record it first")
        target = self.annotate
        if self._is_file and target.suffix.lower() not in VideoAnnotator.FORMATS:
            raise VeaError(f"--annotate {target}: name a folder, or a file that ends in "
                           f"{', '.join(VideoAnnotator.FORMATS)}")  # fmt: skip
        if self._is_file and len(clips) > 1:
            raise VeaError(f"--annotate {target} is one file and there are {len(clips)} videos: name a folder")
        if target.is_file() and any(isinstance(clip, Path) and target.samefile(clip) for clip in clips):
            raise VeaError(f"--annotate {target} is the video itself; give another name")

    @property
    def _is_file(self) -> bool:
        return self.annotate is not None and not self.annotate.is_dir() and bool(self.annotate.suffix)

    def annotated_name(self, clip: Path) -> Path:
        """Returns where the annotated copy of a clip goes."""
        assert self.annotate is not None
        if self._is_file:
            self.annotate.parent.mkdir(parents=True, exist_ok=True)
            return self.annotate
        self.annotate.mkdir(parents=True, exist_ok=True)
        return free_name(self.annotate, clip.stem, ".mp4")


@dataclass
class Reading:
    """What came of reading videos: rows, and a sentence for each that could not be read to its end."""

    rows: int = 0
    errors: list[str] = field(default_factory=list)


def read_clips(
    clips: Sequence[Clip],
    predictor: Predictor,
    write: Callable[[dict[str, Any]], None],
    *,
    every: int = 1,
    smoothing: bool = True,
    units: bool = False,
    outputs: Outputs | None = None,
) -> Reading:
    """Reads each video to its end or its break, and hands every row to ``write`` as it comes.

    Raises:
        VeaError: the only video gave no row; the sentence says why.
        RunError: the weights are broken, or none of several videos gave a row.
    """
    outputs, result, timelines = outputs or Outputs(), Reading(), []
    failure: VeaError | None = None
    try:
        for clip in clips:
            timelines.append(Timeline(str(clip)))
            try:
                how = {"every": every, "smoothing": smoothing, "units": units}
                _read_one(clip, predictor, write, result, timelines[-1], how=how, outputs=outputs)
            except RunError:
                raise
            except VeaError as error:
                failure = error
                result.errors.append(str(error))
        if failure is not None and not result.rows:
            if len(clips) == 1:
                raise failure
            if len(result.errors) == len(clips):
                raise RunError(f"none of the {len(clips)} videos could be read: {'; '.join(result.errors)}")
    finally:  # after Ctrl-C as well: it is how a camera ends
        if outputs.report and (result.rows or not result.errors):
            write_timelines(outputs.report, timelines, description=predictor.description, notes=result.errors)
    return result


def _read_one(
    clip: Clip, predictor: Predictor, write: Callable[[dict[str, Any]], None], result: Reading, timeline: Timeline, *,
    how: dict[str, Any], outputs: Outputs,
) -> None:  # fmt: skip
    failure: VeaError | None = None
    before = result.rows
    with ExitStack() as stack:
        annotator = None
        if outputs.annotate and isinstance(clip, Path):
            target = outputs.annotated_name(clip)
            partial = stack.enter_context(new_file(target))
            form = VideoAnnotator.FORMATS[target.suffix.lower()]
            annotator = VideoAnnotator(clip, partial, every=how["every"], form=form)
        rows = predictor.stream(clip, thumbnails=bool(outputs.report), **how)
        try:
            for row in rows:
                _one_row(clip, row, write, timeline if outputs.report else None, annotator)
                result.rows += 1
        except RunError:
            raise
        except VeaError as error:
            if result.rows == before:
                raise  # nothing to keep
            failure = error
        if annotator is not None:
            annotator.close()
    if failure is not None:
        raise failure


def _one_row(
    clip: Clip, row: Row, write: Callable[[dict[str, Any]], None], timeline: Timeline | None,
    annotator: VideoAnnotator | None,
) -> None:  # fmt: skip
    write({"file": str(clip), **row.record()})
    if timeline is not None:
        timeline.add(row)
    if annotator is not None:
        annotator.add(row)
