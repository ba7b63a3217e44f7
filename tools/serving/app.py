"""The web application: the page, POST /predict, /model, /examples.jpg and /health."""

import hashlib
import io
import json
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Response, g, request, send_file
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from data_prep import image_files
from data_prep.common.errors import UserError
from tools.recognition import answers, examples

from . import log
from .worker import Busy

PAGE = Path(__file__).parent / "page"
FILES = {  # address: (file of the page, type)
    "/": ("index.html", "text/html"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
FORM = 64 << 10  # bytes of a form beside its photograph
PARTS = 16  # of a form
LONGEST_NAME = 255
REASONS = {404: "there is nothing at this address", 405: "this address takes another method"}
RETRY = 2  # seconds after which a client may ask again
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Settings:
    """What a server offers.

    title       of the page
    max_upload  bytes of a photograph
    sheet       bytes of the sheet of examples, or None
    hosts       names by which clients may address it; None: any
    """

    title: str
    max_upload: int
    sheet: bytes | None = None
    hosts: tuple | None = None

    @property
    def largest_body(self):
        """Bytes of a request's body."""
        return self.max_upload + FORM

    @property
    def too_large(self):
        return f"the photograph is larger than {self.max_upload / 2**20:g} MB"


def create(worker, settings):
    """The Flask application. worker: a started worker.Worker. settings: Settings."""
    app = Flask(__name__, static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=settings.largest_body,
        MAX_FORM_PARTS=PARTS,
    )
    writer = answers.Json(worker.model.hierarchy.levels, worker.top)
    _add_files(app, worker, settings)
    _add_errors(app, settings)

    @app.before_request
    def begin():
        g.start = time.monotonic()
        _check_sender(settings.hosts)

    @app.after_request
    def end(response):
        response.headers.update(SECURITY)
        if "ETag" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        start = g.get("start")
        seconds = None if start is None else time.monotonic() - start
        log.request(request.method, request.path, response.status_code, seconds)
        return response

    @app.post("/predict")
    def predict():
        name, read = _upload(settings)
        return _json(answers.encoded(writer.one(worker.answer(name, read))))

    @app.get("/health")
    def health():
        alive = worker.alive
        return _json({"status": "ok" if alive else "the model has ended"}, 200 if alive else 503)

    return app


def _check_sender(hosts):
    """Raises Forbidden for requests that pages of other addresses send.

    A page of theirs that names this machine by a name of its own (DNS rebinding) is found by the
    Host header. hosts: names that clients may use; None: any.
    """
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    if hosts is not None and _hostname(f"//{host}") not in hosts:
        raise Forbidden(f"open this server by one of its own names: {', '.join(hosts)}")
    if origin is not None and origin.partition("://")[2] != host:
        raise Forbidden("pages of other addresses may not use this server")


def _hostname(address):
    try:
        return urlsplit(address).hostname
    except ValueError:  # an invalid number of IPv6
        return None


def _json(content, status=200):
    """A response. content: bytes of a JSON text, or what becomes one."""
    if not isinstance(content, bytes):
        content = json.dumps(content, ensure_ascii=False).encode() + b"\n"
    return Response(content, status, mimetype="application/json")


def _add_files(app, worker, settings):
    """Add the page's files, the facts about the model that it shows, and the sheet of examples."""

    def add(address, content, kind):
        tag = hashlib.sha256(content).hexdigest()[:32]

        def view():
            return send_file(io.BytesIO(content), kind, etag=tag, max_age=0)

        app.add_url_rule(address, address, view, methods=["GET"])

    for address, (name, kind) in FILES.items():
        add(address, (PAGE / name).read_bytes(), kind)
    if settings.sheet is not None:
        add(f"/{examples.FILE}", settings.sheet, "image/jpeg")
    facts = json.dumps(_facts(worker, settings), ensure_ascii=False).encode() + b"\n"
    add("/model", facts, "application/json")


def _facts(worker, settings):
    """What the page has to know, for GET /model."""
    tree = worker.model.hierarchy
    found = {
        "title": settings.title,
        "levels": [
            {"name": name, "classes": size, "own": j in worker.model.outputs}
            for j, (name, size) in enumerate(zip(tree.levels, tree.sizes))
        ],
        "max_upload": settings.max_upload,
        "formats": list(image_files.FORMATS),
    }
    if settings.sheet is not None:
        found["examples"] = {
            "image": f"/{examples.FILE}",
            "side": examples.tile_side(tree.sizes[0]),
            "columns": examples.COLUMNS,
            "classes": list(tree.names[0]),
        }
    return found


def _upload(settings):
    """(name, function that returns the bytes) of the request's photograph; raises HTTPException."""
    kind = request.mimetype
    if kind == "multipart/form-data":
        found = [one for _, one in request.files.items(multi=True) if one.filename]
        if len(found) != 1:
            what = "no photograph" if not found else f"{len(found)} photographs"
            raise BadRequest(f"the form has {what}: send one, in a file field")
        name, stream = found[0].filename[:LONGEST_NAME], found[0].stream
    elif kind.startswith("image/") or kind == "application/octet-stream":
        name, stream = "photograph", request.stream
    else:
        raise UnsupportedMediaType(
            "send the photograph in a file field of a form (multipart/form-data) or as the body, "
            "with its type (image/jpeg ...)"
        )

    def read():
        data = stream.read(settings.max_upload + 1)
        if len(data) > settings.max_upload:
            raise RequestEntityTooLarge(settings.too_large)
        if not data:
            raise BadRequest("the photograph is empty")
        image_files.header(io.BytesIO(data))  # tells unknown formats from damaged files
        return data

    return name, read


def _add_errors(app, settings):
    """Let every error be JSON: {"error": a sentence}."""

    def failed(error, status):
        return _json({"error": str(error)}, status)

    @app.errorhandler(HTTPException)
    def http(error):
        reasons = {**REASONS, 413: settings.too_large}
        reason = reasons.get(error.code, error.description)
        response = failed(reason, error.code)
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    @app.errorhandler(image_files.UnknownFormat)
    def unknown(error):
        return failed(error, 415)

    @app.errorhandler(image_files.ImageError)
    def unusable(error):
        return failed(error, 400)

    @app.errorhandler(Busy)
    def busy(error):
        response = failed("too many photographs are waiting: try again in a moment", 503)
        response.headers["Retry-After"] = str(RETRY)
        return response

    @app.errorhandler(UserError)
    def refused(error):
        log.problem(f"error: {error}")  # names files of this machine
        return failed("the model can't answer for this photograph; the server's log says why", 500)

    @app.errorhandler(Exception)
    def bug(error):
        traceback.print_exception(error)
        return failed("an error in the server; its log has the details", 500)
