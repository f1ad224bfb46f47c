"""The how-to guide "Move to another backend without downtime", with an app that serves and clients that write."""

import threading
from dataclasses import replace
from itertools import count as numbers

import pytest
from flask import Flask, request

from flask_storage import Storage, current_storage, http_errors, send_stored_file
from flask_storage.backends.s3.presets import PRESETS
from tests.counts import count
from tests.s3_storages import make_storage
from tests.variants import extra_variant

pytest_plugins = ["tests.services.s3"]

WRITERS = 8
FILES = count(200, 10_000)
TURNS = count(6, 60)
"""The least number of turns of each writer in each phase; it makes four requests in one."""


def make_app(profiles):
    """Return an app that serves, stores and deletes the files of the profile `media`, as one of its processes does."""
    app = Flask(__name__)
    app.config.update(STORAGE_PROFILES=profiles, STORAGE_DEFAULT_PROFILE="media", SECRET_KEY="s" * 32)
    Storage(app)

    @app.route("/<path:path>", methods=["GET", "PUT", "DELETE"])
    def media(path):
        storage = current_storage["media"]
        with http_errors():
            if request.method == "GET":
                return send_stored_file(storage, path)
            if request.method == "PUT":
                storage.write(path, request.get_data())
            else:
                storage.delete(path)
            return "done"

    return app


class Site:
    """The app as its clients see it: its processes are replaced while requests are sent."""

    def __init__(self, profiles):
        self.app = make_app(profiles)

    def restart(self, profiles):
        """Replace the processes: requests that have begun are still finished by the old ones."""
        self.app = make_app(profiles)
        return self.app.extensions["storage"]["media"]

    def call(self, method, path, data=None):
        """Send a request, and return the body of the response; None for a missing file."""
        with self.app.test_client().open(f"/{path}", method=method, data=data) as response:
            assert response.status_code in (200, 404), response.data
            return response.data if response.status_code == 200 else None


class Writer(threading.Thread):
    """A client that reads, replaces, deletes and creates files of its own, and knows what must be stored."""

    def __init__(self, site, number):
        super().__init__(daemon=True)
        self.site = site
        self.number = number
        self.paths = [path_of(index) for index in range(number, FILES, WRITERS)]
        self.expected = {path: path.encode() for path in self.paths}
        self.turns = 0
        self.has_to_stop = threading.Event()
        self.error = None

    def run(self):
        """Make turns until it is stopped, or a response is wrong."""
        try:
            for turn in numbers():
                self.turn(turn)
                self.turns += 1
                if self.has_to_stop.is_set():
                    return
        except BaseException as error:
            self.error = error
            raise

    def turn(self, turn):
        """Read a file; replace, delete and create others."""
        read, replaced, deleted = (self.paths[(turn * 3 + offset) % len(self.paths)] for offset in range(3))
        new = f"new/{self.number}/{turn}.txt"
        assert self.site.call("GET", read) == self.expected.get(read), read
        for path in (replaced, new):
            self.expected[path] = f"{path} {turn}".encode()
            self.site.call("PUT", path, self.expected[path])
        self.site.call("DELETE", deleted)
        self.expected.pop(deleted, None)
        assert self.site.call("GET", deleted) is None


def path_of(index):
    """Return the path of a file that is there before the move."""
    return f"{index % 10}/{index}.txt"


def wait_for_turns(writers):
    """Wait until each writer has made some turns more."""
    ends = [writer.turns + TURNS for writer in writers]
    for writer, end in zip(writers, ends, strict=True):
        while writer.turns < end and writer.is_alive():
            writer.join(0.01)


def contents(storage):
    """Return the content of every file by its path."""
    return {entry.name: storage.read(entry.name) for entry in storage.iter()}


def local_profile(tmp_path):
    """Return a profile with a new directory."""
    return {"backend": "local", "root": tmp_path / "bucket", "create": True, "fsync": False}


@pytest.fixture
def s3_profile(localstack):
    """Return a profile with a new bucket of LocalStack."""
    preset = replace(PRESETS["aws"], copy_conditions=False, addressing="path")
    bucket = localstack.make_bucket()
    return lambda: make_storage(localstack, bucket=bucket, preset=preset)  # one storage for each app


@pytest.mark.parametrize("to", ["local", pytest.param("s3", marks=extra_variant)])
def test_files_move_while_the_app_serves_and_back(request, tmp_path, to):
    """No request fails, nothing is lost and nothing comes back: in the migration, the cut-over and the way back."""
    disk = {"backend": "local", "root": tmp_path / "disk", "create": True, "fsync": False}
    bucket = request.getfixturevalue("s3_profile") if to == "s3" else lambda: local_profile(tmp_path)

    def both(media):
        return {"disk": disk, "bucket": bucket(), "media": media}

    site = Site({"media": disk})
    old = site.app.extensions["storage"]["media"]
    for index in range(FILES):
        old.write(path_of(index), path_of(index).encode())
    media = site.restart(both({"backend": "read_through", "storage": "bucket", "old": "disk"}))
    writers = [Writer(site, number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    wait_for_turns(writers)  # after that, no process writes to the disk

    copied = media.migrate()
    wait_for_turns(writers)
    new = site.restart({"media": bucket()})  # the cut-over
    wait_for_turns(writers)
    safe = site.restart(both({"backend": "mirror", "storage": "bucket", "mirrors": ["disk"]}))
    wait_for_turns(writers)  # after that, no process writes to the bucket alone
    safe.resync()
    for writer in writers:
        writer.has_to_stop.set()
    for writer in writers:
        writer.join()

    assert [writer.error for writer in writers] == [None] * WRITERS
    expected = {path: content for writer in writers for path, content in writer.expected.items()}
    assert 0 < copied <= FILES
    assert contents(new) == expected
    back = site.restart({"media": disk})  # the way back
    assert contents(back) == expected
