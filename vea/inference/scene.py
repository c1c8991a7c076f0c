"""The scene model that ships, alone and beside the expressions of faces.

from vea.inference.scene import load_scene
scene = load_scene().look(read_picture("photo.jpg"))
print(scene.valence, scene.valence_sd, scene.quadrant, scene.brightness)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from vea.data.views.appearance import brightness_of, colorfulness_of, thinned
from vea.data.views.decode import Encoded, searched, size_of
from vea.data.views.geometry import eval_window
from vea.data.views.pictures import ImageLike, read_picture
from vea.data.views.views import Views
from vea.distributed.runtime import compute_device
from vea.errors import VeaError
from vea.inference.predict import Predictor
from vea.inference.results import Prediction, Scene
from vea.models.onednn import quick
from vea.tasks.saved import SavedModel, open_model

LOW, HIGH = 1.0, 7.0  # the raters' scale, which a linear head may leave


class SceneReader:
    """A model of valence and arousal that states how sure it is; made by ``load_scene``.

    ``sd`` is the expected error of valence and of arousal, in points of the 1 to 7 scale.
    """

    def __init__(self, model: SavedModel, *, device: str = "cpu") -> None:
        config = model.task.config
        model.task.encoder = quick(model.task.encoder)  # three fifths of the time
        self.predictor = Predictor(model.task, target="valence", device=compute_device(device), description=model.name)
        stated = model.state["task"]["uncertainty"]
        self.sd = np.array([stated["valence"], stated["arousal"]])
        self.size = config.augment.image_size
        self._crop = config.augment.eval_crop
        self._views = Views(config.augment, seed=0, channels=config.model.channels, train=False)

    def view(self, image: np.ndarray | Encoded) -> np.ndarray:
        """Returns what the network sees, the centre square (``size``, ``size``, 3), of a picture, encoded or not."""
        return self._views.one(image, key="")

    def window(self, image: np.ndarray | Encoded) -> tuple[int, int, int, int]:
        """Returns (x0, y0, x1, y1) of that square in pixels of the picture."""
        width, height = size_of(image)
        return eval_window(width=width, height=height, image_size=self.size, eval_crop=self._crop)

    def values(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Returns (N, 2): valence and arousal, 1 to 7, of views (``size``, ``size``, 3)."""
        # one by one: a batch is no faster on a CPU and takes more memory
        rows = [self.predictor.outputs([view]) for view in views]
        answers = np.array([[row["valence"][0], row["arousal"][0]] for row in rows], np.float64).reshape(-1, 2)
        return np.clip(answers, LOW, HIGH)

    @torch.inference_mode()
    def features(self, image: np.ndarray | Encoded) -> np.ndarray:
        """Returns (D,) float32: what the frozen network gives its two heads to read of a picture."""
        task = self.predictor.task
        view = torch.from_numpy(self.view(image)).permute(2, 0, 1)[None].to(self.predictor.device)
        return task.encoder(task.normalise(view))[0].float().cpu().numpy()

    def look(self, image: np.ndarray | Encoded) -> Scene:
        """Returns what a picture, encoded or RGB uint8 (H, W, 3), evokes and how it looks."""
        ((valence, arousal),) = self.values([self.view(image)]).tolist()
        seen = thinned(searched(image))
        looks = (round(measure(seen), 1) for measure in (brightness_of, colorfulness_of))
        return Scene(valence, arousal, *self.sd.tolist(), *looks)


def load_scene(*, device: str = "cpu") -> SceneReader:
    """Returns the scene model that ships.

    Raises:
        VeaError: this installation carries none, or there is no such device.
    """
    return SceneReader(open_model("scene"), device=device)


class Look(NamedTuple):
    """One picture: what it evokes, and its faces; None where that was not asked for."""

    scene: Scene | None
    faces: Prediction | None


def look(
    images: Iterable[ImageLike],
    *,
    scene: SceneReader | None,
    faces: Predictor | None,
    detect_faces: bool = True,
    urls: bool = False,
) -> Iterator[Look | VeaError]:
    """Yields, in order, what each image shows, or the ``VeaError`` that says why it cannot be read.

    Each image is read once, and decoded at the scales that serve; memory does not grow with their number.

    Args:
        images: anything that ``vea.data.views.pictures.read_image`` reads.
        scene: the model of whole pictures, None not to ask it.
        faces: the model of faces, None not to search for them.
        detect_faces: False takes each image as one face crop, as in ``Predictor.predict``.
        urls: True fetches ``http(s)://`` addresses.

    Raises:
        VeaError: the face detector is not installed.
    """
    waiting: deque[Scene | VeaError | None] = deque()  # one an image, before its faces are known

    def readable() -> Iterator[np.ndarray | Encoded]:
        for image in images:
            try:
                picture = read_picture(image, urls=urls)
            except VeaError as error:
                waiting.append(error)
                continue
            waiting.append(scene.look(picture) if scene else None)
            yield picture

    found: Iterator[Prediction | VeaError | None]
    found = faces.stream(readable(), detect_faces=detect_faces) if faces else (None for _ in readable())
    for result in found:
        while isinstance(first := waiting.popleft(), VeaError):
            yield first
        yield result if isinstance(result, VeaError) else Look(first, result)
    yield from (error for error in waiting if isinstance(error, VeaError))
