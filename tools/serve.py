#!/usr/bin/env python3
"""Serve a model to browsers and programs: a page to drop a photograph on, and JSON.

The page shows the photograph's path in the label tree, with the probabilities of every level's own
classifier and of the fine one, and the best alternatives beside a training image of each. It works
on phones and loads nothing from elsewhere.

POST /predict answers for one photograph, sent in a file field of a form or as the body, with the
JSON object that tools/predict.py --json writes (its --help describes it). Errors are JSON, too:
{"error": "..."}, with status 400 (damaged), 413 (too large), 415 (not an image) or 503 (too many
photographs are waiting: ask again after Retry-After seconds). GET /health is for supervisors.

Only this machine reaches the server, unless --host names another address (0.0.0.0: all of them).
It has no passwords and no encryption: in a network, put a web server with both in front of it.
Ctrl-C or SIGTERM stops it after the requests that run.

--decode decides for the classes:
  fine   the class that the fine classifier prefers, and its ancestors (the default)
  joint  the path with the largest product of all classifiers' probabilities
  own    on each level the class that its own classifier prefers
  risk   the fine class of the least expected distance in the tree, and its ancestors

Examples:
    tools/serve.py --model models/mine
    curl -F photograph=@photo.jpg http://127.0.0.1:8000/predict
"""

import argparse
from pathlib import Path

from data_prep.common.arguments import within
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools.recognition import examples, options

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # by which browsers address this machine


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_model(parser)
    options.add_decision(parser, top=5)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: %(default)s, this machine alone)",
    )
    parser.add_argument(
        "--port",
        type=within(int, 0, 65535),
        default=8000,
        help="port to listen on; 0: any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--max-upload",
        type=within(float, 0.01, 300),
        default=20,
        metavar="MB",
        help="largest file of a photograph (default: %(default)s)",
    )
    parser.add_argument(
        "--waiting",
        type=within(int, 1, 1000),
        default=64,
        metavar="N",
        help="photographs that may wait at a time; more get status 503 (default: %(default)s)",
    )
    return parser.parse_args()


def sheet_of(args, model):
    """The sheet of examples, bytes, of the model or of its data set; None if there is none."""
    classes = model.hierarchy.sizes[0]
    if args.model:
        return examples.read(args.model, classes)
    data = options.data_folder(args.solver)
    return None if examples.unavailable(data, classes) else examples.sheet(data, classes)


def title_of(args):
    return (
        Path(args.model).resolve().name if args.model else args.solver.stem.removesuffix("_solver")
    )


def main():
    args = parse()
    try:
        from tools.serving import app as application, server as servers, worker as workers
    except ModuleNotFoundError as error:
        if error.name not in ("flask", "waitress"):
            raise
        raise UserError(f"this Python has no {error.name}: run `make setup`") from None
    bound = servers.listen(args.host, args.port)
    worker = workers.Worker(
        lambda: options.open_model(args),
        rule=args.decode,
        top=args.top,
        crops=args.crops,
        places=args.waiting,
    )
    worker.start()
    options.check_crops(args, worker.model)
    local = servers.is_loopback(bound)
    settings = application.Settings(
        title=title_of(args),
        max_upload=int(args.max_upload * 2**20),
        sheet=sheet_of(args, worker.model),
        hosts=tuple(dict.fromkeys((*LOOPBACK, args.host.lower()))) if local else None,
    )
    app = application.create(worker, settings)
    server = servers.Server(app, bound, args.waiting, settings.largest_body, settings.too_large)
    server.stop_on_signals()
    name, where = servers.in_address(args.host), ""
    if servers.is_everywhere(bound):
        name, where = "localhost", "at every address of this machine; "
    address = f"http://{name}:{server.port}/"
    print(f"{worker.model.source}: {address} ({where}Ctrl-C stops it)", flush=True)
    server.run()
    worker.close()
    print("stopped", flush=True)


if __name__ == "__main__":
    command(main)
