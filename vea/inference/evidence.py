"""Why a picture may evoke what it evokes: a chain of named evidence, without a language model.

from vea.inference.evidence import Chain
for line in Chain().explain(read_image("photo.jpg")):
    print(line.step, line.component, line.text)

The form is Empatheia's chain of empathy (arXiv 2502.04976): event, emotion, cause, and goal and response if asked. Each
line says which component it comes from; what no component found is "no evidence" and nothing is made up. The causes are
experiments on the model, not on people: what is hidden or changed in the picture, and by how much the model's answer
moves (occlusion: Zeiler and Fergus, ECCV 2014, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from vea.data.views.appearance import main_colors, thinned
from vea.errors import VeaError
from vea.inference.predict import Predictor, load
from vea.inference.results import Prediction, Scene
from vea.inference.scene import SceneReader, load_scene

if TYPE_CHECKING:
    from vea.enrich.persons import Detection
    from vea.inference.like import Like

Step = Literal["event", "emotion", "cause", "goal", "response"]
NO_EVIDENCE = "no evidence"
GRID = 5  # regions a side that are hidden in turn
SURE = 0.75  # probability from which the emotion line takes a side
MOVES = 0.15  # of the model's own error: what moves the answer by less is no cause
BLANK = 2.0  # standard deviation of the pixels, of 255: below, nothing is to be seen
STANDS_OUT = 2.0  # times what hiding the median region does: below, no region is the cause
FACES, PERSONS = "face detector, expression model", "people detector"  # components
REGIONS, CHANGED = f"scene model, {GRID} x {GRID} regions hidden in turn", "scene model, other light and colour"
ROWS, COLUMNS = ("top", "upper", "middle", "lower", "bottom"), ("far left", "left", "centre", "right", "far right")

# What a kind answer aims at, and one that names nothing but the evidence; of the quadrants of valence and arousal.
GOALS = {
    "pleasant and arousing": ("share the excitement", "What a lively picture! What did you like most about it?"),
    "pleasant and calm": ("share the calm", "What a pleasant picture. Is there a story behind it?"),
    "unpleasant and arousing": ("calm and reassure", "This can be hard to look at. Would you like to talk about it?"),
    "unpleasant and calm": ("comfort", "This does not look happy to me. How is it for you?"),
}


@dataclass(frozen=True)
class Line:
    """One link of the chain: which step, which component says it, in words and in numbers.

    ``found`` is False where the component has no evidence; ``text`` then begins with ``NO_EVIDENCE``.
    """

    step: Step
    component: str
    text: str
    found: bool = True
    data: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Returns the line for JSON."""
        return asdict(self)


def nothing(step: Step, component: str, reason: str, **data: Any) -> Line:
    """Returns a line that says that there is no evidence, and why."""
    return Line(step, component, f"{NO_EVIDENCE}: {reason}", False, data)


def filled(view: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Returns the view (S, S, 3) with a box (x0, y0, x1, y1) in the mean colour of what is around it."""
    x0, y0, x1, y1 = box
    outside = np.ones(view.shape[:2], bool)
    outside[y0:y1, x0:x1] = False
    hidden = view.copy()
    hidden[y0:y1, x0:x1] = np.round(view[outside].mean(0)) if outside.any() else 127
    return hidden


def cells(size: int) -> list[tuple[int, int, int, int]]:
    """Returns the boxes (x0, y0, x1, y1) of ``GRID`` x ``GRID`` regions of a view of ``size`` pixels, row by row."""
    edges = np.linspace(0, size, GRID + 1).round().astype(int).tolist()
    return [
        (edges[column], edges[row], edges[column + 1], edges[row + 1]) for row in range(GRID) for column in range(GRID)
    ]


def moved(answers: np.ndarray, answer: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Returns (N,): how far answers (N, 2) are from one (2,), in units of the model's own error ``sd`` (2,)."""
    return np.sqrt((((answers - answer) / sd) ** 2).sum(1))


@dataclass(frozen=True)
class Region:
    """The region whose hiding moves the answer most.

    ``place`` is its number in ``cells``, ``moves`` (N,) what hiding each region does in units of the model's error,
    ``change`` (2,) what hiding this one does to valence and arousal.
    """

    place: int
    moves: np.ndarray
    change: np.ndarray

    @property
    def stands_out(self) -> bool:
        """Whether it moves the answer enough, and more than regions commonly do."""
        most = self.moves[self.place]
        return bool(most >= MOVES and most >= STANDS_OUT * np.median(self.moves))


def find_region(reader: SceneReader, view: np.ndarray) -> Region:
    """Returns which region of a view matters most to the scene model: ``GRID`` squared + 1 forward passes."""
    boxes = cells(reader.size)
    answer, *hidden = reader.values([view, *(filled(view, box) for box in boxes)])
    moves = moved(np.array(hidden), answer, reader.sd)
    place = int(moves.argmax())
    return Region(place, moves, hidden[place] - answer)


def brighter(view: np.ndarray, amount: float) -> np.ndarray:
    """Returns the view with ``amount`` (-1 to 1) added to its light."""
    return np.clip(view.astype(np.int16) + round(255 * amount), 0, 255).astype(np.uint8)


def recoloured(view: np.ndarray, factor: float) -> np.ndarray:
    """Returns the view with its distance from grey times ``factor``: 0 is grey, above 1 more colourful."""
    grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    return np.clip(np.round(grey + factor * (view - grey)), 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "brighter": lambda view: brighter(view, 0.2),
    "darker": lambda view: brighter(view, -0.2),
    "without colour": lambda view: recoloured(view, 0.0),
    "more colourful": lambda view: recoloured(view, 1.6),
}


def in_words(change: np.ndarray) -> str:
    """Returns a change of valence and arousal in words, e.g. ``valence -0.6, arousal +0.1``."""
    return f"valence {change[0]:+.1f}, arousal {change[1]:+.1f}"


class Chain:
    """The components, opened once; ``explain`` links what they say of one picture.

    Args:
        device: where to compute.
        faces: the model of faces, by default the one that ships.
        persons: a detector of people, e.g. ``vea.enrich.persons.OnnxPersons(FILE)``: a line more.
        like: a set of rated photographs, ``vea.inference.like.Like``: a line more.

    Raises:
        VeaError: a model that ships is not here, or there is no such device.
    """

    def __init__(
        self, *, device: str = "cpu", faces: Predictor | None = None, persons: Detection | None = None,
        like: Like | None = None,
    ) -> None:  # fmt: skip
        self.scene: SceneReader = load_scene(device=device)
        self.faces: Predictor = faces or load("expression", device=device)
        self.persons, self.like = persons, like

    def explain(self, image: np.ndarray, *, respond: bool = False) -> list[Line]:
        """Returns five lines about RGB uint8 (H, W, 3), seven with ``respond``: a goal and a response.

        Persons and photographs alike, where asked for, have a line each behind the faces' and the looks' line. About
        thirty forward passes of the scene model. Without a face detector the line of faces says so.
        """
        scene, view = self.scene.look(image), self.scene.view(image)
        if thinned(image).reshape(-1, 3).std(0).max() < BLANK:
            return blank_lines(image, scene, respond=respond)
        try:
            (found,) = self.faces.predict(image)
        except VeaError as error:
            faces, found = nothing("event", "face detector", str(error)), Prediction(None)
        else:
            faces = faces_line(found)
        lines = [
            faces,
            *([persons_line(image, self.persons)] if self.persons else []),
            looks_line(image, scene),
            *([self.like.line(image)] if self.like else []),
            emotion_line(scene),
            self.region_line(image, view, found),
            self.change_line(view),
        ]
        return [*lines, *answer_lines(scene)] if respond else lines

    def region_line(self, image: np.ndarray, view: np.ndarray, found: Prediction) -> Line:
        """Returns which region of the picture the answer hangs on."""
        component = REGIONS
        region = find_region(self.scene, view)
        x0, y0, x1, y1 = (edge / self.scene.size for edge in cells(self.scene.size)[region.place])
        left, top, right, _ = self.scene.window(image)
        side = right - left
        box = [round(start + edge * side) for start, edge in ((left, x0), (top, y0), (left, x1), (top, y1))]
        data = {
            "box": box,
            "change": {"valence": round(float(region.change[0]), 3), "arousal": round(float(region.change[1]), 3)},
            "moves": round(float(region.moves[region.place]), 3),
            "median_moves": round(float(np.median(region.moves)), 3),
        }
        if not region.stands_out:
            return nothing("cause", component, "no region moves the answer much more than the others", **data)
        row, column = divmod(region.place, GRID)
        held = [str(number) for number, face in enumerate(found.faces, start=1) if overlap(face.box, box)]
        shown = f" (face {' and '.join(held)})" if held else ""
        text = f"hiding the {ROWS[row]} {COLUMNS[column]}{shown} changes the answer most: {in_words(region.change)}"
        return Line("cause", component, text, data={**data, "faces": [int(number) for number in held]})

    def change_line(self, view: np.ndarray) -> Line:
        """Returns what other light or colour would do to the answer."""
        component = CHANGED
        answer, *others = self.scene.values([view, *(change(view) for change in CHANGES.values())])
        changes = dict(zip(CHANGES, np.array(others) - answer))
        moves = dict(zip(CHANGES, moved(np.array(others), answer, self.scene.sd).tolist()))
        data = {
            name: {"valence": round(float(change[0]), 3), "arousal": round(float(change[1]), 3)}
            for name, change in changes.items()
        }
        best = max(moves, key=moves.__getitem__)
        if moves[best] < MOVES:
            return nothing("cause", component, "neither light nor colour moves the answer", changes=data)
        text = f"{best}, the picture would change the answer most: {in_words(changes[best])}"
        return Line("cause", component, text, data={"most": best, "changes": data})


def overlap(face: tuple[int, int, int, int], box: list[int]) -> bool:
    """Returns whether a quarter of the face, or of the box, lies in the other."""
    width = min(face[2], box[2]) - max(face[0], box[0])
    height = min(face[3], box[3]) - max(face[1], box[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (face, box))
    return width > 0 and height > 0 and 4 * width * height >= smaller


def faces_line(found: Prediction) -> Line:
    """Returns who is there: each face with its expression, the largest first, three at most in words."""
    component = FACES
    if not found.faces:
        return nothing("event", component, "no face was found", faces=[])
    named = [
        {
            "box": list(face.box),
            "expression": face.expression,
            "probability": round(max(face.probabilities.values()), 3),
        }
        for face in found.faces
    ]
    words = [f"{face['expression']} {face['probability']:.0%}" for face in named[:3]]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    text = f"{len(named)} face{'s' if len(named) > 1 else ''}: {', '.join(words)}{more}"
    return Line("event", component, text, data={"faces": named})


def persons_line(image: np.ndarray, detector: Detection) -> Line:
    """Returns how many people there are, and the share of the picture that the most prominent one takes."""
    (found,) = detector.rows([detector.prepare(image, {})])
    if not found["boxes"]:
        return nothing("event", PERSONS, "nobody was found", persons=[])
    x0, y0, x1, y1 = found["boxes"][0]
    share = (x1 - x0) * (y1 - y0) / (image.shape[0] * image.shape[1])
    count = len(found["boxes"])
    one = "1 person, in" if count == 1 else f"{count} people, the most prominent in"
    data = [{"box": box, "score": score} for box, score in zip(found["boxes"], found["scores"])]
    return Line("event", PERSONS, f"{one} {share:.0%} of the picture", data={"persons": data})


def looks_line(image: np.ndarray, scene: Scene) -> Line:
    """Returns how the picture looks: brightness, colorfulness and its main colours."""
    colors = {name: round(share, 3) for name, share in main_colors(thinned(image)).items()}
    most = [f"{name} {share:.0%}" for name, share in list(colors.items())[:3] if share >= 0.05]
    text = f"brightness {scene.brightness:.1f}, colorfulness {scene.colorfulness:.1f} of 1; {', '.join(most)}"
    data = {"brightness": scene.brightness, "colorfulness": scene.colorfulness, "colors": colors}
    return Line("event", "pixels", text, data=data)


def emotion_line(scene: Scene) -> Line:
    """Returns what the picture may evoke and how sure that is; sides are taken from ``SURE`` on."""
    sides = {"pleasant": scene.pleasant, "unpleasant": 1 - scene.pleasant,
             "arousing": scene.arousing, "calm": 1 - scene.arousing}  # fmt: skip
    sure = [f"{name} ({share:.0%})" for name, share in sides.items() if share >= SURE]
    numbers = (f"valence {scene.valence:.1f} ± {scene.valence_sd:.1f}, arousal {scene.arousal:.1f} ± "
               f"{scene.arousal_sd:.1f}, 1 to 7")  # fmt: skip
    data = {**asdict(scene), "quadrants": {name: round(share, 4) for name, share in scene.quadrants.items()}}
    if not sure:
        return nothing("emotion", "scene model", f"too near the middle to say ({numbers})", **data)
    return Line("emotion", "scene model", f"may evoke something {' and '.join(sure)}: {numbers}", data=data)


def blank_lines(image: np.ndarray, scene: Scene, *, respond: bool) -> list[Line]:
    """Returns the chain of a picture of one tone: how it looks, and no evidence for anything else."""
    reason = "the picture is of one tone"
    steps: list[tuple[Step, str]] = [("emotion", "scene model"), ("cause", REGIONS), ("cause", CHANGED)]
    steps += [("goal", "table of quadrants"), ("response", "table of quadrants")] if respond else []
    first = [nothing("event", FACES, reason), looks_line(image, scene)]
    return [*first, *(nothing(step, component, reason) for step, component in steps)]


def answer_lines(scene: Scene) -> list[Line]:
    """Returns what a kind answer would aim at, and one; of a table, and only where the quadrant is likely."""
    component, share = "table of quadrants", scene.quadrants[scene.quadrant]
    if share < SURE**2:  # both sides as sure as the emotion line asks of one
        reason = f"no quadrant is likely enough ({scene.quadrant} {share:.0%})"
        return [nothing("goal", component, reason), nothing("response", component, reason)]
    goal, response = GOALS[scene.quadrant]
    return [Line("goal", component, goal), Line("response", component, response)]
