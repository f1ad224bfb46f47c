"""The routes of the app. The storage is all there is: no database stands beside it."""

from __future__ import annotations

import heapq
import re
import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from itsdangerous import BadSignature, URLSafeSerializer
from werkzeug.wrappers import Response as BaseResponse

from flask_storage import IntegrityError, InvalidPathError, ListEntry, StorageBackend, current_storage
from flask_storage.paths import normalize, safe_filename

from . import csrf
from .file_types import FileType, file_type_of

if TYPE_CHECKING:
    import arrow

blueprint = Blueprint("drop", __name__)
blueprint.before_request(csrf.protect)

UPLOAD_TIME = timedelta(minutes=15)  # to begin in; one that has begun may take longer
VIEW_TIME = timedelta(hours=1)
REDIRECTS_KEPT = timedelta(minutes=5)
LARGEST_THUMBNAIL = 8_000_000


class Lifetime(NamedTuple):
    """A choice of the share dialog."""

    key: str
    label: str
    time: timedelta
    uses: int | None = None


LIFETIMES = {
    lifetime.key: lifetime
    for lifetime in (
        Lifetime("minutes", "10 minutes", timedelta(minutes=10)),
        Lifetime("hour", "1 hour", timedelta(hours=1)),
        Lifetime("day", "1 day", timedelta(days=1)),
        Lifetime("once", "1 download", timedelta(days=1), uses=1),
    )
}


class Item(NamedTuple):
    """One file, as the page shows it."""

    path: str
    name: str
    size: int
    modified: arrow.Arrow | None
    file_type: FileType
    thumbnail: bool


# -- the page ---------------------------------------------------------------------------------------------------------


@blueprint.get("/")
def index() -> Response:
    """Show the newest files."""
    backend = current_storage.default
    count = total = 0

    def counted() -> Any:
        nonlocal count, total
        for entry in backend.iter():
            count += 1
            total += entry.size
            yield entry

    # One pass over the storage, and no more of it in memory than is shown.
    newest = heapq.nlargest(
        current_app.config["DROP_LISTED_FILES"], counted(), key=lambda entry: (entry.last_modified, entry.name)
    )
    page = render_template(
        "drop.html",
        files=[_item(entry) for entry in newest],
        count=count,
        total=total,
        max_size=current_app.config["DROP_MAX_UPLOAD_SIZE"],
        lifetimes=_lifetimes(backend).values(),
    )
    response = make_response(page)
    response.headers["Content-Security-Policy"] = csrf.PAGE_POLICY.format(origin=_link_origin(backend))
    response.headers["Cache-Control"] = "no-store"
    return response


# -- uploads ----------------------------------------------------------------------------------------------------------


@blueprint.post("/uploads")
def begin_upload() -> Response:
    """Answer a browser that wants to upload with what it has to send, and where."""
    payload = _json_payload()
    name, size = payload.get("name"), payload.get("size")
    if not isinstance(name, str) or type(size) is not int or size < 0:
        abort(400, "An upload needs a name and a size.")
    if size > current_app.config["DROP_MAX_UPLOAD_SIZE"]:
        abort(413)
    path = _new_path(name)
    backend = current_storage.default
    # What the link allows is signed: this name and, as far as the place can bind them, this type, this many bytes, and
    # nothing that is already there.
    instruction = backend.upload_request(
        path,
        UPLOAD_TIME,
        content_type=file_type_of(path).content_type if backend.capabilities.content_headers else None,
        size=size if "size" in backend.capabilities.upload_constraints else None,
        exclusive="exclusive" in backend.capabilities.upload_constraints,
    )
    return jsonify(
        path=path,
        upload_token=_upload_token_signer().dumps([path, size]),
        method=instruction.method,
        url=instruction.url,
        headers=dict(instruction.headers),
        fields=dict(instruction.fields),
    )


@blueprint.post("/uploads/done")
def confirm_upload() -> Response:
    """Look at what has arrived, when the browser says that it has sent all: it went past us, so we see it first here.

    The path is the one that we gave out, as our own signature shows, never one that a client thinks of.
    """
    try:
        path, size = _upload_token_signer().loads(str(_json_payload().get("upload_token")))
    except BadSignature:
        abort(400, "There was no such upload. Choose the file and send it again.")
    try:
        current_storage.default.confirm_upload(path, size=size)
    except IntegrityError:
        abort(400, "Something else arrived than was announced, and was deleted. Try again.")
    return jsonify(path=path)


@blueprint.post("/files")
def upload_form() -> BaseResponse:
    """Take the files of the form, for browsers without scripts."""
    arrived = [uploaded for uploaded in request.files.getlist("files") if uploaded.filename]
    if not arrived:
        abort(400, "No file arrived. Choose one and send it again.")
    for uploaded in arrived:
        path = _new_path(uploaded.filename or "")
        current_storage.default.upload(uploaded.stream, path)
    return redirect(url_for(".index"), 303)


# -- one file ---------------------------------------------------------------------------------------------------------


@blueprint.get("/open/<path:path>")
def open_file(path: str) -> BaseResponse:
    """Lead to the file, to be shown where that is safe, else to be saved. The page never holds a link that expires."""
    return _redirect_to_file(path, inline=True)


@blueprint.get("/download/<path:path>")
def download(path: str) -> BaseResponse:
    """Lead to the file, to be saved."""
    return _redirect_to_file(path, inline=False)


@blueprint.post("/share/<path:path>")
def share(path: str) -> Response:
    """Make a link that anybody may use until it expires."""
    backend = current_storage.default
    lifetimes = _lifetimes(backend)
    lifetime = lifetimes.get(str(_json_payload().get("lifetime")))
    if lifetime is None:
        abort(400, f"A link lives for one of: {', '.join(lifetimes)}.")
    info = backend.stat(path)
    name = _name_of(info.path)
    expires_at = datetime.now().astimezone() + lifetime.time
    url = backend.link_to(
        info.path, "download", expires_at, name, content_type=file_type_of(name).content_type, uses=lifetime.uses
    )
    return jsonify(url=url, expires_at=expires_at.isoformat(timespec="seconds"), once=lifetime.uses == 1)


@blueprint.post("/delete/<path:path>")
def delete(path: str) -> BaseResponse | str:
    """Delete a file once that is confirmed; the script of the page asks by itself, other browsers get a page."""
    backend = current_storage.default
    if "confirmed" not in request.values:
        name = _name_of(backend.stat(path).path)
        return render_template(
            "message.html", mark="Delete", title=f"Delete {name}?", text="It is gone for good.", delete_path=path
        )
    backend.delete(path)
    if request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json":
        return jsonify(deleted=path)
    return redirect(url_for(".index"), 303)


# -- inner ------------------------------------------------------------------------------------------------------------


def _json_payload() -> dict[str, Any]:
    """Return the JSON object that a script sent; an empty one for anything else."""
    request.max_content_length = 64 * 1024
    try:
        payload = request.get_json(silent=True)
    except RecursionError:  # brackets upon brackets
        payload = None
    return payload if isinstance(payload, dict) else {}


def _new_path(name: str) -> str:
    """Return a path that nobody has: the name in a random folder of its own.

    A name that every system could hold stays as it is, others are made safe.
    """
    leaf = re.split(r"[/\\]", name)[-1]
    try:
        leaf = normalize(leaf, portable=True)
    except InvalidPathError:
        leaf = safe_filename(leaf)
    return f"{secrets.token_hex(8)}/{leaf}"


def _upload_token_signer() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.config["SECRET_KEY"], salt="upload")


def _lifetimes(backend: StorageBackend) -> dict[str, Lifetime]:
    """Return the choices that this place can keep to: nobody counts the uses of a link that it signs itself."""
    counts = "uses" in backend.capabilities.link_constraints
    return {key: lifetime for key, lifetime in LIFETIMES.items() if counts or lifetime.uses is None}


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


def _item(entry: ListEntry) -> Item:
    name = _name_of(entry.name)
    kind = file_type_of(name)
    thumbnail = kind.preview == "image" and entry.size <= LARGEST_THUMBNAIL
    return Item(entry.name, name, entry.size, entry.last_modified, kind, thumbnail)


def _redirect_to_file(path: str, *, inline: bool) -> BaseResponse:
    backend = current_storage.default
    info = backend.stat(path)
    name = _name_of(info.path)
    kind = file_type_of(name)
    disposition = "inline" if inline and kind.preview else "attachment"
    link = backend.link_to(
        info.path, "download", VIEW_TIME, name, content_type=kind.content_type, disposition=disposition
    )
    response = redirect(link, 303)
    response.cache_control.private = True
    # A thumbnail keeps its link for a while, so that the browser's copy of it is found again.
    response.cache_control.max_age = int(REDIRECTS_KEPT.total_seconds())
    return response


def _link_origin(backend: StorageBackend) -> str:
    """Return the host that links lead to, for the page's policy; empty when it is this one."""
    link = urlsplit(backend.link_to("origin", "download", VIEW_TIME))
    origin = f"{link.scheme}://{link.netloc}"
    return "" if origin == request.host_url.rstrip("/") else f" {origin}"
