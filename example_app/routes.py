"""The routes of the app. All data is in the storage; the app has no database."""

from __future__ import annotations

import heapq
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
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
from .archive import stream_zip
from .file_types import FileType, file_type_of

if TYPE_CHECKING:
    import arrow

blueprint = Blueprint("drop", __name__)
blueprint.before_request(csrf.protect)

UPLOAD_TIME = timedelta(minutes=15)  # an upload must begin in this time; it may take longer
VIEW_TIME = timedelta(hours=1)
REDIRECT_MAX_AGE = timedelta(minutes=5)
MAX_THUMBNAIL_SIZE = 8_000_000


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


class Order(NamedTuple):
    """An order of the list: its name for people, the key by which entries are compared, and whether it is reversed."""

    label: str
    key: Callable[[ListEntry], Any]
    descending: bool = True


ORDERS = {
    "newest": Order("Newest first", lambda entry: (entry.last_modified, entry.name)),
    "name": Order("By name", lambda entry: (_name_of(entry.name).casefold(), entry.name), descending=False),
    "largest": Order("Largest first", lambda entry: (entry.size, entry.name)),
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
    """Show the newest files, or those whose names contain a text, in the order that was chosen."""
    backend = current_storage.default
    wanted = request.args.get("q", "").strip()
    chosen = request.args.get("sort", "")
    order = ORDERS.get(chosen, ORDERS["newest"])
    count = total = matches = 0

    def matching() -> Iterator[ListEntry]:
        nonlocal count, total, matches
        for entry in backend.iter():
            count += 1
            total += entry.size
            if wanted.casefold() in _name_of(entry.name).casefold():
                matches += 1
                yield entry

    # One pass over the storage; only the entries that are shown are held in memory.
    select = heapq.nlargest if order.descending else heapq.nsmallest
    shown = select(current_app.config["DROP_LISTED_FILES"], matching(), key=order.key)
    page = render_template(
        "drop.html",
        files=[_item(entry) for entry in shown],
        count=count,
        total=total,
        matches=matches,
        wanted=wanted,
        chosen=chosen,
        orders=ORDERS,
        max_size=current_app.config["DROP_MAX_UPLOAD_SIZE"],
        lifetimes=LIFETIMES.values(),
    )
    response = make_response(page)
    response.headers["Content-Security-Policy"] = csrf.PAGE_POLICY.format(origin=_link_origin(backend))
    response.headers["Cache-Control"] = "no-store"
    return response


# -- uploads ----------------------------------------------------------------------------------------------------------


@blueprint.post("/uploads")
def begin_upload() -> Response:
    """Return the URL, method, headers and fields with which the browser uploads one file."""
    payload = _json_payload()
    name, size = payload.get("name"), payload.get("size")
    if not (isinstance(name, str) and name) or type(size) is not int or size < 0:
        abort(400, "An upload needs a name and a size.")
    if size > current_app.config["DROP_MAX_UPLOAD_SIZE"]:
        abort(413)
    path = _new_path(name)
    # The signature covers the path, the size and the content type.
    presigned = current_storage.default.upload_request(
        path, UPLOAD_TIME, content_type=file_type_of(path).content_type, size=size
    )
    return jsonify(
        path=path,
        upload_token=_upload_token_signer().dumps([path, size]),
        method=presigned.method,
        url=presigned.url,
        headers=dict(presigned.headers),
        fields=dict(presigned.fields),
    )


@blueprint.post("/uploads/done")
def confirm_upload() -> Response:
    """Check a stored file after its upload, which may have gone directly from the browser to the storage service.

    The upload token is signed by the app, so that a client cannot name any other path. The file moves to a path of its
    own, which the browser cannot write, although the upload's signature is still valid.
    """
    try:
        path, size = _upload_token_signer().loads(str(_json_payload().get("upload_token")))
    except BadSignature:
        abort(400, "This upload is unknown. Choose the file and upload it again.")
    try:
        info = current_storage.default.confirm_upload(path, size=size, move_to=_new_path(path))
    except IntegrityError:
        abort(400, "The file changed during the upload, so it was not stored. Try again.")
    return jsonify(path=info.path)


@blueprint.post("/files")
def upload_form() -> BaseResponse:
    """Store the files of the form, for browsers without scripts."""
    files = [uploaded for uploaded in request.files.getlist("files") if uploaded.filename]
    if not files:
        abort(400, "No file was selected. Choose a file and upload it again.")
    for uploaded in files:
        path = _new_path(uploaded.filename or "")
        current_storage.default.upload(uploaded.stream, path)
    return redirect(url_for(".index"), 303)


# -- several files ----------------------------------------------------------------------------------------------------


@blueprint.post("/selection")
def selection() -> BaseResponse | str:
    """Send the selected files as one ZIP file, or delete them after a confirmation."""
    backend = current_storage.default
    paths = list(dict.fromkeys(request.form.getlist("path")))
    action = request.form.get("action")
    if not paths:
        abort(400, "No file is selected. Select files and try again.")
    if action == "zip":
        infos = [backend.stat(path) for path in paths]
        response = Response(stream_zip(backend, infos), mimetype="application/zip")
        response.headers["Content-Disposition"] = 'attachment; filename="drop.zip"'
        response.headers["Cache-Control"] = "no-store"
        return response
    if action != "delete":
        abort(400)
    if "confirmed" not in request.form:
        return render_template("delete.html", paths=paths, names=[_name_of(path) for path in paths])
    backend.delete_many(paths)
    return redirect(url_for(".index"), 303)


# -- one file ---------------------------------------------------------------------------------------------------------


@blueprint.get("/open/<path:path>")
def open_file(path: str) -> BaseResponse:
    """Redirect to the file, shown inline when that is safe. So the page itself contains no link that expires."""
    return _redirect_to_file(path, inline=True)


@blueprint.get("/download/<path:path>")
def download(path: str) -> BaseResponse:
    """Redirect to the file as a download."""
    return _redirect_to_file(path, inline=False)


@blueprint.post("/share/<path:path>")
def share(path: str) -> Response:
    """Return the address of a page for a recipient without a login, with a link to the file that expires."""
    backend = current_storage.default
    lifetime = LIFETIMES.get(str(_json_payload().get("lifetime")))
    if lifetime is None:
        abort(400, f"The lifetime of a link must be one of: {', '.join(LIFETIMES)}.")
    info = backend.stat(path)
    name = _name_of(info.path)
    expires_at = datetime.now().astimezone() + lifetime.time
    url = backend.link_to(
        info.path, "download", expires_at, name, content_type=file_type_of(name).content_type, uses=lifetime.uses
    )
    token = _shared_page_signer().dumps([info.path, int(expires_at.timestamp()), lifetime.uses == 1, url])
    page = _external_url(url_for(".shared", token=token))
    return jsonify(url=page, expires_at=expires_at.isoformat(timespec="seconds"), once=lifetime.uses == 1)


@blueprint.get("/shared/<token>")
def shared(token: str) -> Response:
    """Show a shared file to its recipient: name, size, and the link to it."""
    try:
        path, expires, once, url = _shared_page_signer().loads(token)
    except BadSignature:
        abort(403)
    expires_at = datetime.fromtimestamp(expires, UTC)
    if expires_at <= datetime.now(UTC):
        abort(403)
    info = current_storage.default.stat(path)
    page = render_template(
        "shared.html", name=_name_of(path), size=info.size, expires_at=expires_at, once=once, url=url
    )
    response = make_response(page)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@blueprint.post("/delete/<path:path>")
def delete(path: str) -> BaseResponse | str:
    """Delete a file after confirmation: the page's script shows a dialog, browsers without scripts get a page."""
    backend = current_storage.default
    if "confirmed" not in request.values:
        name = _name_of(backend.stat(path).path)
        return render_template(
            "message.html", mark="Delete", title=f"Delete {name}?", text="This cannot be undone.", delete_path=path
        )
    backend.delete(path)
    if request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json":
        return jsonify(deleted=path)
    return redirect(url_for(".index"), 303)


# -- helpers ----------------------------------------------------------------------------------------------------------


def _json_payload() -> dict[str, Any]:
    """Return the JSON object that a script sent; an empty one for anything else."""
    request.max_content_length = 64 * 1024
    try:
        payload = request.get_json(silent=True)
    except RecursionError:  # deeply nested arrays or objects
        payload = None
    return payload if isinstance(payload, dict) else {}


def _new_path(name: str) -> str:
    """Return a new path: the file name in a directory with a random name.

    A file name that is valid on every system stays as it is; others are sanitized.
    """
    filename = re.split(r"[/\\]", name)[-1]
    try:
        filename = normalize(filename, portable=True)
    except InvalidPathError:
        filename = safe_filename(filename)
    return f"{secrets.token_hex(8)}/{filename}"


def _upload_token_signer() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.config["SECRET_KEY"], salt="upload")


def _shared_page_signer() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.config["SECRET_KEY"], salt="shared page")


def _external_url(path: str) -> str:
    """Return the address of a path of the app, as browsers reach it."""
    external = current_app.config.get("STORAGE_EXTERNAL_URL")
    return f"{external.rstrip('/')}{path.removeprefix(request.root_path)}" if external else request.host_url + path[1:]


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


def _item(entry: ListEntry) -> Item:
    name = _name_of(entry.name)
    file_type = file_type_of(name)
    has_thumbnail = file_type.preview == "image" and entry.size <= MAX_THUMBNAIL_SIZE
    return Item(entry.name, name, entry.size, entry.last_modified, file_type, has_thumbnail)


def _redirect_to_file(path: str, *, inline: bool) -> BaseResponse:
    backend = current_storage.default
    info = backend.stat(path)
    name = _name_of(info.path)
    file_type = file_type_of(name)
    disposition = "inline" if inline and file_type.preview else "attachment"
    link = backend.link_to(
        info.path, "download", VIEW_TIME, name, content_type=file_type.content_type, disposition=disposition
    )
    response = redirect(link, 303)
    response.cache_control.private = True
    # The browser reuses the redirect for a while, so that it finds the thumbnail in its cache under the same link.
    response.cache_control.max_age = int(REDIRECT_MAX_AGE.total_seconds())
    return response


def _link_origin(backend: StorageBackend) -> str:
    """Return the origin of links, for the page's content security policy; empty when it is this app."""
    link = urlsplit(backend.link_to("origin", "download", VIEW_TIME))
    origin = f"{link.scheme}://{link.netloc}"
    return "" if origin == request.host_url.rstrip("/") else f" {origin}"
