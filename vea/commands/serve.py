"""``vea serve``: a page to upload photographs to; of a run of recipe instruct, a server in OpenAI's form."""

from __future__ import annotations

import argparse
from pathlib import Path

from vea.errors import VeaError, command


@command
def main(argv: list[str]) -> None:
    """Serves the page until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="vea serve", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("model", nargs="?", default="expression", help="a run, expression or expression-nano; a pupil")
    parser.add_argument("--explain", metavar="RUN", help="a run of finetune/train.py: a tab that answers in words")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--max-mb", type=float, default=20, help="of an uploaded file (20)")
    parser.add_argument("--queue", type=int, default=32, help="requests that may wait (32)")
    parser.add_argument("--workers", type=int, default=1, help="requests at the same time (1)")
    parser.add_argument("--keep", type=float, default=600, metavar="SECONDS", help="a file stays so long after its "
                        "last use where no page is open; the files of a page go when it is closed (600)")  # fmt: skip
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(argv)
    for name in ("max_mb", "queue", "workers", "keep"):
        if not getattr(given, name) > 0:
            raise VeaError(f"--{name.replace('_', '-')} must be more than 0 (got {getattr(given, name)})")
    try:
        import gradio  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise VeaError("the page needs the package gradio: pip install 'vea[serve]'") from None
    if Path(given.model).is_dir():
        from vea.tasks.instruct_saved import is_pupil

        if is_pupil(Path(given.model)):
            return _chat(given)
    import numpy as np

    from vea.inference.evidence import Chain
    from vea.inference.explain import load_explainer
    from vea.inference.page import application
    from vea.inference.predict import load
    from vea.inference.server import serve

    predictor = load(given.model, device=given.device)
    predictor.predict(np.zeros((64, 64, 3), np.uint8))  # a missing face detector shows now, not to the first visitor
    explainer = load_explainer(given.explain, device=given.device) if given.explain else None
    chain = Chain(device=given.device, faces=predictor if predictor.reads_faces else None)
    app = application(predictor, max_mb=given.max_mb, queue=given.queue, workers=given.workers, explainer=explainer,
                      chain=chain, keep_s=given.keep)  # fmt: skip
    print(f"{predictor.description}: http://{given.host}:{given.port} (Ctrl-C ends it)", flush=True)
    serve(app, host=given.host, port=given.port)


def _chat(given: argparse.Namespace) -> None:
    from vea.evals.backends.pupil import PupilBackend
    from vea.evals.chat_server import chat_application
    from vea.inference.server import serve

    pupil = PupilBackend(Path(given.model))
    print(f"{pupil.name}: vea eval http://{given.host}:{given.port}/v1 TASK (Ctrl-C ends it)", flush=True)
    serve(chat_application(pupil, max_mb=given.max_mb), host=given.host, port=given.port)
