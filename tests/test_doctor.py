"""`flask storage doctor`: what it finds out on each backend, and that it leaves nothing behind."""

import json
import re
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from uuid import uuid4

import pytest
from flask import Flask

from flask_storage import (
    Capabilities,
    MemoryStorage,
    PermissionDeniedError,
    PresignedUpload,
    ShareLinkOperation,
    Storage,
    StorageUnavailableError,
)
from flask_storage.backends.azure import AzureStorage
from flask_storage.backends.local.diagnosis import diagnostics_of
from flask_storage.backends.local.inspection import FilesystemReport
from flask_storage.backends.s3 import S3Storage
from flask_storage.diagnostics import Diagnostics, Finding
from tests.services.scripted_proxy import ScriptedProxy, ScriptedResponse, s3_error

pytest_plugins = ["tests.services.azurite", "tests.services.openssh", "tests.services.s3"]

DOCS = Path(__file__).parents[1] / "docs/how-to"
ORIGIN = "https://shop.example"
PROBES = {
    *("access", "clock", "write", "read", "list", "delete", "headers", "exclusive", "if_match", "copy", "multipart"),
    *("etag", "case", "link", "upload", "form", "cors", "cleanup"),
}


def make_app(tmp_path, profile, **settings):
    """Return an app with one profile."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(SECRET_KEY="k" * 32, STORAGE_EXTERNAL_URL=f"{ORIGIN}/app", STORAGE_PROFILES={"docs": profile})
    app.config.update(settings)
    Storage(app)
    return app


def doctor(app, *arguments):
    """Run the command and return its exit status, the findings by probe, and the whole result."""
    done = app.test_cli_runner().invoke(args=["storage", "doctor", "--json", *arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    result = json.loads(done.stdout)
    findings = {finding.pop("probe"): Finding(**finding) for finding in result["findings"]}
    return done.exit_code, findings, result


def statuses(findings):
    """Return the names of the probes by status."""
    found: dict[str, set[str]] = {}
    for name, finding in findings.items():
        found.setdefault(finding.status, set()).add(name)
    return found


# -- backends that work -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [ORIGIN, f"{ORIGIN}/app", "https://Bücher.example:8443", None])
@pytest.mark.parametrize("backend", ["local", "memory"])
def test_links_of_the_app_are_tried_without_a_server(tmp_path, backend, address):
    """At the root of a host, below a path, with an international name, and with only a server name."""
    profile = {"backend": backend, **({"root": tmp_path / "docs", "create": True} if backend == "local" else {})}
    app = make_app(tmp_path, profile, STORAGE_EXTERNAL_URL=address, SERVER_NAME=None if address else "shop.example")

    status, findings, _ = doctor(app)

    assert (status, statuses(findings)["ok"] >= PROBES - {"etag", "case"}) == (0, True), findings
    assert findings["link"].text == "a download link of the app returns the file"
    assert findings["upload"].text == "an upload request of the app stored the file (PUT)"
    assert findings["cors"].text == "no rule is needed, because uploads go through the app"


def test_an_app_that_refuses_its_own_links_gets_advice_about_itself(tmp_path):
    """No credentials sign these links."""
    app = make_app(tmp_path, {"backend": "memory"})
    app.before_request(lambda: ("log in", 401))

    status, findings, _ = doctor(app)

    advice = "check what the app does before each request, and its TRUSTED_HOSTS and MAX_CONTENT_LENGTH"
    assert status == 1
    assert findings["link"] == Finding("failed", "a download link of the app was answered by 401", advice)
    assert findings["upload"] == Finding("failed", "an upload request of the app was answered by 401", advice)


def test_local_disk_is_left_as_it_was(tmp_path):
    """The directory of the probes is deleted."""
    doctor(make_app(tmp_path, {"backend": "local", "root": tmp_path / "docs", "create": True}))

    assert list((tmp_path / "docs").iterdir()) == []


def test_a_read_only_profile_has_no_failure(tmp_path):
    """It is listed, and everything that writes is left out, also the deletion at the end."""
    docs = {"backend": "memory"}
    app = make_app(
        tmp_path, docs, STORAGE_PROFILES={"docs": docs, "shown": {"backend": "read_only", "storage": "docs"}}
    )

    status, findings, _ = doctor(app, "shown")

    assert (status, statuses(findings).keys()) == (0, {"ok", "note", "skipped"})
    assert findings["write"].text.endswith("'shown' is read-only")
    assert "cleanup" not in findings


def test_a_directory_of_a_profile_works_like_the_profile(tmp_path):
    """All probes pass, and nothing is left."""
    docs = {"backend": "local", "root": tmp_path / "docs", "create": True}
    acme = {"backend": "prefix", "storage": "docs", "prefix": "tenants/acme"}
    app = make_app(tmp_path, docs, STORAGE_PROFILES={"docs": docs, "acme": acme})

    status, findings, _ = doctor(app, "acme")

    assert (status, statuses(findings)["ok"] >= PROBES - {"etag", "case"}) == (0, True), findings
    assert list((tmp_path / "docs").iterdir()) == []


def test_the_file_system_of_a_local_storage_is_described(tmp_path):
    """Its root, by the symbolic links that lead to it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    app = make_app(tmp_path, {"backend": "local", "root": tmp_path / "link"})

    status, findings, _ = doctor(app)

    assert (status, findings["root"].status) == (0, "note")
    assert findings["root"].text == f"the root is {tmp_path}/disk, by the symbolic links {tmp_path}/link"
    assert findings["permissions"] == Finding("ok", "the file system keeps permissions")
    assert findings["space"].text.endswith(" MiB are free")


@pytest.mark.parametrize(
    ("probe", "changes", "status", "text"),
    [
        ("permissions", {"permissions": "refused"}, "note", "the file system refuses chmod"),
        ("permissions", {"permissions": "ignored"}, "note", "the file system ignores file_mode and directory_mode"),
        ("root", {}, "ok", "the root is /srv/files"),
        ("attributes", {"xattrs": True}, "ok", "the file system has extended attributes"),
        ("attributes", {}, "note", "the file system has no extended attributes: content types and metadata are not"),
        ("space", {"free_bytes": 1024**3}, "ok", "1024 MiB are free"),
        ("space", {"free_bytes": 2 * 1024**2}, "note", "2 MiB are free"),
    ],
)
def test_a_file_system_with_less_than_usual_has_notes(probe, changes, status, text):
    """What fails because of it, other probes report."""
    report = FilesystemReport(
        **{
            "root": Path("/srv/files"),
            "symlinks": (),
            "case_sensitive": True,
            "permissions": "kept",
            "time_resolution": 1,
            "xattrs": False,
            "etag_is_strong": True,
            "free_bytes": 0,
            **changes,
        }
    )

    finding = diagnostics_of(lambda: report).probes[probe]("")

    assert (finding.status, finding.text[: len(text)]) == (status, text)


def s3_profile(server, bucket, **arguments):
    """Return a profile on an S3 server."""
    return {
        "backend": "s3",
        "bucket": bucket,
        "prefix": uuid4().hex,
        "region": server.region,
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
        "endpoint_url": server.http,
        "preset": server.preset,
        **arguments,
    }


def test_s3_is_tried_with_links_forms_and_a_preflight(tmp_path, localstack):
    """Links of the service are used over the network; the result says what rights and rules are needed."""
    bucket = localstack.make_bucket()
    app = make_app(tmp_path, s3_profile(localstack, bucket))
    requirements = app.extensions["storage"]["docs"].diagnostics(origin=ORIGIN).requirements
    with closing(localstack.client()) as client:
        client.put_bucket_cors(Bucket=bucket, CORSConfiguration=json.loads([*requirements.values()][1]))

    status, findings, result = doctor(app)

    # LocalStack ignores conditions of copies, which AWS honours.
    assert (status, statuses(findings)["failed"]) == (1, {"copy"})
    assert statuses(findings)["ok"] == PROBES - {"copy"} | {"credentials", "region"}
    assert findings["link"].text == "a download link of the service returns the file"
    assert findings["form"].text == "an upload request of the service stored the file (POST)"
    assert findings["cors"].text == f"pages of {ORIGIN} may upload to the service"
    assert findings["credentials"].text == "boto3 found credentials (explicit)"
    assert result["requirements"] == requirements
    assert localstack.secret_key not in json.dumps(result)
    assert app.extensions["storage"]["docs"].list() == []
    localstack.remove_bucket(bucket)


def test_a_service_that_ignores_conditions_is_found_out(tmp_path, rclone_s3):
    """With a preset that declares them; every other probe is tried, and the exit status is 1."""
    bucket = rclone_s3.make_bucket()
    app = make_app(tmp_path, s3_profile(rclone_s3, bucket, preset="aws", checksums="when_required"))

    status, findings, _ = doctor(app)

    assert status == 1
    assert statuses(findings)["failed"] >= {"exclusive", "if_match", "copy"}
    assert findings["exclusive"].text == "exclusive=True is ignored by the service: the file was overwritten"
    assert "preset" in findings["exclusive"].advice
    assert statuses(findings)["ok"] >= {"access", "write", "read", "list", "delete", "link", "cleanup"}
    assert app.extensions["storage"]["docs"].list() == []


def test_a_service_whose_conditions_are_not_declared_is_noted(tmp_path, rclone_s3):
    """It works: the storage refuses what the service would ignore."""
    app = make_app(tmp_path, s3_profile(rclone_s3, rclone_s3.make_bucket()))

    _, findings, _ = doctor(app)

    assert statuses(findings).get("failed", set()) <= {"headers"}  # it changes the case of metadata keys
    assert statuses(findings)["note"] >= {"exclusive", "if_match", "copy", "cors"}


def test_azure_is_tried_with_links_and_a_preflight(tmp_path, azurite):
    """A rule of the account permits pages of the app."""
    profile = {"backend": "azure", "account": azurite.account, "key": azurite.key, "endpoint_url": azurite.url}
    container = azurite.make_container()
    app = make_app(tmp_path, {**profile, "bucket": container})
    azurite.allow_origin(ORIGIN)

    status, findings, result = doctor(app)

    azurite.allow_origin()
    assert {name: found.text for name, found in findings.items() if found.status == "failed"} == {}
    assert status == 0
    assert statuses(findings)["ok"] >= PROBES - {"form", "etag"} | {"credentials"}
    assert findings["link"].text == "a download link of the service returns the file"
    assert azurite.key not in json.dumps(result)
    azurite.remove_container(container)


def test_sftp_is_tried(tmp_path, openssh):
    """Notes say what SFTP cannot do."""
    root = f"doctor-{uuid4().hex}"
    (openssh.folder / root).mkdir()
    app = make_app(tmp_path, {"backend": "sftp", **openssh.login, "root": root})

    status, findings, _ = doctor(app)

    app.extensions["storage"]["docs"].close()
    assert {name: found.text for name, found in findings.items() if found.status == "failed"} == {}
    assert status == 0
    assert findings["headers"].status == "note"
    assert findings["link"].text == "a download link of the app returns the file"
    assert list((openssh.folder / root).iterdir()) == []


# -- storages that do not work ----------------------------------------------------------------------------------------


class FaultyStorage(MemoryStorage):
    """A storage in memory whose subclasses differ in one thing."""

    capabilities = MemoryStorage.capabilities


def changed(**changes):
    """Return a class whose `stat` returns changed attributes."""

    class Changed(FaultyStorage):
        def _stat(self, path):
            return replace(super()._stat(path), **changes)

    return Changed


class Forgetful(FaultyStorage):
    """Lists no file."""

    def _list(self, path, recursive):
        return []


class Garbling(FaultyStorage):
    """Returns other bytes."""

    def _open_reader(self, path):
        self._files[path] = replace(self._files[path], data=b"other")
        return super()._open_reader(path)


class Keeping(FaultyStorage):
    """Deletes no single file."""

    def _delete(self, path):
        if not path.endswith("deleted.txt"):
            super()._delete(path)


class Folding(FaultyStorage):
    """Ignores the case of names."""

    def _find(self, path):
        return super()._find(path.replace("/case", "/Case"))


class Broken(FaultyStorage):
    """Has a mistake whose message contains a secret."""

    def _copy(self, path, new_path, options):
        raise RuntimeError("hunter2")


class Locked(FaultyStorage):
    """Refuses to delete the directory."""

    def _delete_prefix(self, path):
        raise PermissionDeniedError("the files are locked")


@pytest.mark.parametrize(
    ("backend", "probe", "status", "text"),
    [
        (Forgetful, "list", "failed", "a written file is not listed"),
        (Garbling, "read", "failed", "other bytes were read than written"),
        (Keeping, "delete", "failed", "a deleted file still exists"),
        (Folding, "case", "note", "names that differ only in case are one file"),
        (Broken, "copy", "failed", "RuntimeError was raised"),
        (Locked, "cleanup", "failed", "the files are locked"),
        (
            changed(metadata={"Doctor": "Mixed Case"}),
            "headers",
            "failed",
            "metadata comes back changed, with the keys Doctor",
        ),
        (changed(content_type=None), "headers", "failed", "the content type comes back changed"),
        (changed(etag=None), "etag", "failed", "two versions have the same etag"),
        (changed(etag="1"), "etag", "failed", "two versions have the same etag"),
        (changed(etag_is_strong=False), "etag", "note", "etags are weak: a broken download starts again"),
    ],
)
def test_a_fault_is_found_and_ends_no_other_probe(tmp_path, backend, probe, status, text):
    """Each probe is tried, and the exit status is 1 only if one failed."""
    exit_status, findings, result = doctor(make_app(tmp_path, {"backend": backend}))

    assert set(findings) == PROBES
    assert (findings[probe].status, findings[probe].text[: len(text)]) == (status, text)
    assert exit_status == (1 if "failed" in statuses(findings) else 0) == (status == "failed")
    assert "hunter2" not in json.dumps(result)


@pytest.mark.parametrize(("minutes", "status"), [(5, "note"), (60, "failed")])
def test_the_date_of_a_new_file_tells_the_clock_of_a_service_without_links(tmp_path, minutes, status):
    """Links expire by the clock."""

    class Late(FaultyStorage):
        def _stat(self, path):
            info = super()._stat(path)
            return replace(info, last_modified=info.last_modified.shift(minutes=-minutes))

    _, findings, _ = doctor(make_app(tmp_path, {"backend": Late}))

    assert findings["clock"].status == status
    assert findings["clock"].text == f"the clock of the service differs by {60 * minutes} s"


def test_a_storage_without_any_option_has_notes(tmp_path):
    """It works, so the exit status is 0."""

    class Plain(FaultyStorage):
        capabilities = Capabilities(links=ShareLinkOperation.download)

    status, findings, _ = doctor(make_app(tmp_path, {"backend": Plain}))

    assert {name: found.text for name, found in findings.items() if found.status == "failed"} == {}
    assert status == 0
    assert statuses(findings)["note"] >= {"headers", "exclusive", "if_match", "copy", "multipart"}


def test_uploads_whose_conditions_are_not_checked_are_completed(tmp_path):
    """A note says that they are refused."""

    class Lenient(FaultyStorage):
        capabilities = replace(MemoryStorage.capabilities, multipart_conditions=False)

    _, findings, _ = doctor(make_app(tmp_path, {"backend": Lenient}))

    assert findings["multipart"].status == "note"
    assert findings["multipart"].text.startswith("an upload was completed")


def test_a_storage_that_cannot_be_written_skips_what_needs_a_file(tmp_path):
    """The message of the error is the finding."""

    class ReadOnly(FaultyStorage):
        def _open_writer(self, path, options):
            raise PermissionDeniedError("writing is denied: grant it")

    status, findings, _ = doctor(make_app(tmp_path, {"backend": ReadOnly}))

    assert (status, findings["write"]) == (1, Finding("failed", "writing is denied: grant it"))
    assert statuses(findings)["skipped"] == PROBES - {"access", "write", "clock", "cleanup"}


def test_an_app_without_links_has_notes(tmp_path):
    """An app may need none."""
    app = make_app(tmp_path, {"backend": "memory"}, SECRET_KEY=None, STORAGE_EXTERNAL_URL=None)

    status, findings, _ = doctor(app)

    assert status == 0
    assert statuses(findings)["note"] == {"link", "upload", "form"}
    assert statuses(findings)["skipped"] == {"cors"}


def test_the_probes_of_a_backend_are_run_with_the_directory(tmp_path):
    """Their errors are translated, and their requirements are printed."""

    class Special(FaultyStorage):
        def _translate(self, error, path):
            return StorageUnavailableError("the service is down") if isinstance(error, LookupError) else None

        def _diagnostics(self, origin):
            def fail(directory):
                raise LookupError(directory)

            return Diagnostics(
                probes={"weather": lambda directory: Finding("ok", directory), "power": fail},
                requirements={"Rules": f"allow {origin}"},
            )

    app = make_app(tmp_path, {"backend": Special}, STORAGE_EXTERNAL_URL=None)

    _, findings, result = doctor(app)
    text = app.test_cli_runner().invoke(args=["storage", "doctor"]).stdout

    assert re.fullmatch(r"doctor-[0-9a-f]{16}", findings["weather"].text)
    assert findings["power"] == Finding("failed", "the service is down")
    assert result["requirements"] == {"Rules": "allow https://app.example.com"}
    assert text.endswith("\nRules:\nallow https://app.example.com\n")


# -- links of a service -----------------------------------------------------------------------------------------------


class LinkedStorage(FaultyStorage):
    """A storage whose links lead to a server of the test."""

    capabilities = replace(
        MemoryStorage.capabilities,
        links=~ShareLinkOperation(0),
        link_constraints=frozenset(),
        upload_constraints=frozenset(),
    )
    address = ""

    def _link_to(self, path, request):
        return f"{self.address}/{path}"

    def _links_to(self, paths, request):
        return [self._link_to(path, request) for path in paths]

    def _upload_request(self, path, request):
        return PresignedUpload(method="PUT", url=self._link_to(path, request), expires_at=request.expires_at)


def linked(tmp_path, address):
    """Return an app whose links lead to *address*."""
    app = make_app(tmp_path, {"backend": LinkedStorage})
    app.extensions["storage"]["docs"].address = address
    return app


@pytest.fixture
def server():
    """A server that answers with what the test sets."""
    with ScriptedProxy("127.0.0.1", 1) as proxy:
        yield proxy


def test_a_link_that_the_service_refuses_is_reported_with_its_code(tmp_path, server):
    """Nothing else of the answer is shown, as it may quote the signed request; a redirect is not followed."""
    server.script = lambda request: s3_error(403, "SignatureDoesNotMatch")

    status, findings, _ = doctor(linked(tmp_path, server.url))

    assert status == 1
    assert findings["link"].text == "a download link of the service was answered by 403 SignatureDoesNotMatch"
    assert findings["upload"].text == "an upload request of the service was answered by 403 SignatureDoesNotMatch"
    assert findings["cors"].text == f"pages of {ORIGIN} may not upload to the service (403 SignatureDoesNotMatch)"


def test_the_rule_for_pages_needs_their_origin(tmp_path, server):
    """Without a setting, the app's address is not known on the command line."""
    server.script = lambda request: ScriptedResponse(403)
    app = make_app(tmp_path, {"backend": LinkedStorage}, STORAGE_EXTERNAL_URL=None)
    app.extensions["storage"]["docs"].address = server.url

    assert doctor(app)[1]["cors"] == Finding(
        "skipped", "the origin of the app is not known", "set STORAGE_EXTERNAL_URL"
    )


def test_a_redirect_is_not_followed(tmp_path, server):
    """A link in another region is redirected, which pages cannot follow."""
    server.script = lambda request: ScriptedResponse(307, headers={"Location": "http://127.0.0.1:1/"})

    _, findings, _ = doctor(linked(tmp_path, server.url))

    assert findings["link"].text == "a download link of the service was answered by 307"


def test_an_upload_that_stores_other_bytes_is_reported(tmp_path, server):
    """A proxy may have answered in place of the service."""
    server.script = lambda request: ScriptedResponse(200, b"welcome")
    app = linked(tmp_path, server.url)
    storage = app.extensions["storage"]["docs"]
    upload_request = storage._upload_request

    def upload(path, request):
        storage.write(path, b"other")
        return upload_request(path, request)

    storage._upload_request = upload

    _, findings, _ = doctor(app)

    assert findings["link"].text == "a download link of the service was answered by 200"
    assert findings["upload"].text == "an upload request of the service stored other bytes"


@pytest.mark.parametrize(("minutes", "status"), [(0, "ok"), (3, "note"), (-16, "failed")])
def test_the_date_of_an_answer_tells_the_clock_of_the_service(tmp_path, server, minutes, status):
    """Also of one that refuses the link."""
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    server.script = lambda request: ScriptedResponse(403, headers={"Date": date})

    _, findings, _ = doctor(linked(tmp_path, server.url))

    assert findings["clock"].status == status


def test_an_answer_with_an_invalid_date_tells_no_time(tmp_path, server):
    """The clock is compared by a new file instead."""
    server.script = lambda request: ScriptedResponse(403, headers={"Date": "yesterday"})

    _, findings, _ = doctor(linked(tmp_path, server.url))

    assert findings["clock"].status == "ok"


def test_a_service_that_cannot_be_reached_by_links_is_reported(tmp_path):
    """The message contains no URL, which has a signature."""
    _, findings, result = doctor(linked(tmp_path, "http://127.0.0.1:1"))

    assert findings["link"].text == "no response (Connection refused)"
    assert "127.0.0.1" not in json.dumps(result)


# -- the command ------------------------------------------------------------------------------------------------------


def test_text_has_one_line_for_each_probe(tmp_path):
    """A failure says what to do, in the same line; the number of failures goes to standard error."""
    app = make_app(tmp_path, {"backend": Keeping})

    done = app.test_cli_runner().invoke(args=["storage", "doctor", "docs"])

    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == len(PROBES)
    assert "ok      access      the storage answers\n" in done.stdout
    assert "FAILED  delete      a deleted file still exists: check the credentials" in done.stdout
    assert done.stderr == f"1 of {len(PROBES)} probes of docs failed.\n"


@pytest.mark.parametrize("arguments", [["scratch"], ["--profile", "scratch"]])
def test_a_profile_can_be_named(tmp_path, arguments):
    """As an argument, or as for every command."""
    profiles = {"docs": {"backend": "memory"}, "scratch": {"backend": "memory"}}
    app = make_app(tmp_path, "memory:", STORAGE_PROFILES=profiles)

    assert doctor(app, *arguments)[2]["profile"] == "scratch"
    assert app.test_cli_runner().invoke(args=["storage", "doctor", "dosc"]).exit_code == 2


def test_an_interrupt_deletes_what_was_written(tmp_path):
    """Ctrl-C in the middle of a probe; the exit status is 130."""

    class Interrupted(FaultyStorage):
        def _copy(self, path, new_path, options):
            raise KeyboardInterrupt

    app = make_app(tmp_path, {"backend": Interrupted})

    done = app.test_cli_runner().invoke(args=["storage", "doctor"])

    assert (done.exit_code, app.extensions["storage"]["docs"].list()) == (130, [])


# -- what is needed at the service ------------------------------------------------------------------------------------


def json_blocks(page):
    """Return the JSON documents of a page."""
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]


def test_the_policy_and_the_rule_of_s3_are_those_of_the_guide():
    """They are written once in the code, and the guide shows them."""
    requirements = S3Storage("my-files", prefix="media").diagnostics().requirements

    policy, cors = map(json.loads, requirements.values())
    assert policy in json_blocks(DOCS / "s3.md")
    assert cors in json_blocks(DOCS / "s3.md")


def test_the_policy_of_s3_has_what_its_arguments_need():
    """Access control lists, and the key of an encryption."""
    key = "arn:aws:kms:eu-central-1:1:key/1"
    storage = S3Storage("my-files", acl="private", kms_key_id=key)

    objects, _, encryption = json.loads(next(iter(storage.diagnostics().requirements.values())))["Statement"]

    assert "s3:PutObjectAcl" in objects["Action"]
    assert (encryption["Resource"], encryption["Action"]) == (key, ["kms:GenerateDataKey", "kms:Decrypt"])


class Identity:
    """A credential that is never used."""

    get_token = None


def test_the_roles_and_the_rule_of_azure_are_those_of_the_guide():
    """Roles are needed by identities only."""
    page = (DOCS / "azure.md").read_text("utf-8")
    with_key = AzureStorage("myaccount", "YWJj", "my-files").diagnostics()
    with_identity = AzureStorage("myaccount", bucket="my-files", credential=Identity()).diagnostics()

    roles, rule = with_identity.requirements.values()
    assert [*with_key.requirements.values()] == [rule]
    assert rule in page
    assert all(f"| {role.partition(',')[0]} | the " in page for role in roles.splitlines())
    assert with_identity.probes["credentials"]("").text == "the identity Identity is used"
    assert with_key.probes["credentials"]("").text == "the account key is used, which permits everything"


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("sp=rw&se=2020-01-01T00:00:00Z", "failed", "permissions rw, until 2020-01-01T00:00:00Z"),
        ("sp=rw&se=2020-01-01", "failed", "until 2020-01-01"),
        ("sp=rw&se=9999-01-01", "note", "until 9999-01-01"),
        ("sp=rw&se=soon", "note", "until soon"),
        ("si=policy", "note", "those of a stored policy"),
    ],
)
def test_the_signature_of_azure_is_described(query, status, text):
    """Its permissions and its expiry, and not itself."""
    url = f"https://myaccount.blob.core.windows.net/my-files?sv=1&{query}&sig=hunter2"

    finding = AzureStorage(sas_container_url=url).diagnostics().probes["credentials"]("")

    assert (finding.status, text in finding.text) == (status, True)
    assert "hunter2" not in finding.text


def test_a_bucket_in_another_region_and_missing_credentials_are_reported(localstack, monkeypatch):
    """Requests would be redirected, but links would not work."""
    bucket = localstack.make_bucket()
    keys = {"aws_access_key_id": localstack.access_key, "aws_secret_access_key": localstack.secret_key}
    server = {"endpoint_url": localstack.http, "preset": "aws", "addressing_style": "path"}
    storage = S3Storage(bucket, "eu-central-1", **keys, **server)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    region = storage.diagnostics().probes["region"]("")
    without = S3Storage(bucket, "us-east-1").diagnostics().probes["credentials"]("")

    assert (region.status, region.advice) == ("failed", "set aws_region to us-east-1")
    assert (without.status, without.text) == ("failed", "there are no credentials")
    storage.close()
    localstack.remove_bucket(bucket)
