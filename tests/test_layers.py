"""Imports go downward only: what each module may import, and which packages a plain import loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flask_storage

PACKAGE = Path(flask_storage.__file__).parent
SDKS = {"azure", "boto3", "paramiko", "PIL", "redis", "sqlalchemy"}

VALUES = "errors types"
INTERFACE = "backends.base"
INTERNAL_LINKS = "backends.internal_links"
MANIFEST = "backends.multipart_manifest"
SHIPPED_BACKENDS = "backends.local.storage backends.memory backends.azure backends.s3 backends.sftp"

# One row per module, from the lowest to the highest. A row says which modules of ours the module may import (a name
# that begins with a dot stands in the same package), and which third-party modules or names. A row may name only rows
# above it, so there are no cycles. Late imports and imports for the type checker count too.
MAY_IMPORT = {
    # Values and rules: no I/O, no Flask, no SDK.
    "_lazy": ("", ""),
    "errors": ("", ""),
    "types": ("", "arrow"),
    "signals": ("", "blinker"),
    "metadata_encoding": ("", ""),
    "streams": ("types", ""),
    "content_types": ("types", ""),
    "paths": ("errors", ""),
    "validation": ("errors paths", ""),
    "tokens": (VALUES, "jwt"),
    # Open files and transfers: no SDK. urllib3 is known for the errors of its responses.
    "diagnostics": ("", ""),
    "process_local": ("", ""),
    "files": (f"{VALUES} streams", ""),
    "multipart": (f"{VALUES} files", ""),
    "range_reader": (f"{VALUES} files", ""),
    "range_download": ("errors", "urllib3.exceptions"),
    # Usage counters of limited links: each service in one module.
    "link_usage.base": ("", ""),
    "link_usage.file_store": ("errors .base", ""),
    "link_usage.redis_store": ("errors .base", "redis"),
    "link_usage.sql_store": ("errors .base", "sqlalchemy"),
    "link_usage": ("errors .base .file_store .redis_store .sql_store", ""),
    # The storage interface: what a backend implements, then the public operations.
    "backends.driver": (f"{VALUES} diagnostics files multipart paths streams tokens", ""),
    "backends.transfers": (f"{VALUES} content_types files paths signals streams validation .driver", ""),
    "backends.app_links": (f"{VALUES} content_types files paths tokens validation .transfers", ""),
    "backends.links": (f"{VALUES} content_types files paths signals validation .app_links .driver", ""),
    "backends.multipart_checks": (f"{VALUES} multipart", ""),
    "backends.base": (f"{VALUES} diagnostics files multipart paths signals .links .multipart_checks", ""),
    "backends.internal_links": (f"{VALUES} tokens .base", "flask"),
    "backends.wrapper": (f"{VALUES} diagnostics files multipart streams tokens .base .driver", ""),
    "backends.multipart_manifest": (f"{VALUES} multipart paths", ""),
    # Backends. None imports another.
    "backends.memory": (f"{VALUES} files multipart {INTERNAL_LINKS}", "arrow"),
    # Local disk: `rooted_tree` and `directory` are the only modules that resolve paths on the disk.
    "backends.local.copy": ("", ""),
    "backends.local.attributes": (f"{VALUES} paths", "arrow"),
    "backends.local.directory": ("errors paths .attributes", ""),
    "backends.local.rooted_tree": ("errors paths .attributes .directory", ""),
    "backends.local.inspection": (".attributes .rooted_tree", ""),
    "backends.local.diagnosis": ("diagnostics .inspection", ""),
    "backends.local.file": (f"{VALUES} files paths .attributes .copy .directory .rooted_tree", ""),
    "backends.local.multipart": (f"{VALUES} multipart paths {MANIFEST} .attributes .copy .directory .rooted_tree", ""),
    "backends.local.storage": (
        (
            f"{VALUES} diagnostics files multipart paths streams validation {INTERNAL_LINKS}"
            " .attributes .copy .diagnosis .directory .file .inspection .multipart .rooted_tree"
        ),
        "",
    ),
    "backends.local": ("errors .file .inspection .storage", ""),
    "backends.filesystem": ("errors backends.local.file backends.local.storage", ""),
    # S3: `client` makes boto3's clients, and `gateway` alone sends requests with them. Others know SDK errors only.
    "backends.s3.endpoint": ("errors validation", "botocore.exceptions"),
    "backends.s3.bounded_client": ("", ""),
    "backends.s3.presets": (f"{VALUES} .endpoint", ""),
    "backends.s3.settings": ("errors validation", ""),
    "backends.s3.sigv4": ("", ""),
    "backends.s3.errors": (VALUES, "botocore.exceptions"),
    "backends.s3.client": (
        "errors process_local range_download .bounded_client .endpoint",
        "boto3 botocore.config botocore.exceptions botocore.handlers botocore.parsers",
    ),
    "backends.s3.responses": ("errors", "botocore.parsers urllib3.exceptions"),
    "backends.s3.object_stream": ("range_download .bounded_client", ""),
    "backends.s3.gateway": (
        "errors range_download .bounded_client .errors .object_stream .presets .responses",
        "botocore.exceptions",
    ),
    "backends.s3.diagnosis": ("diagnostics .client .gateway", ""),
    "backends.s3.integrity": ("range_download range_reader .responses", ""),
    "backends.s3.object_metadata": ("content_types metadata_encoding types .gateway .responses", "arrow"),
    "backends.s3.listing": ("errors types .gateway .object_metadata .responses", "arrow"),
    "backends.s3.multipart": (
        f"{VALUES} multipart range_download .errors .gateway .object_metadata .responses",
        "botocore.exceptions",
    ),
    "backends.s3.copy": (
        "errors types multipart .errors .gateway .multipart .object_metadata .responses",
        "botocore.exceptions",
    ),
    "backends.s3.files": (
        (
            f"{VALUES} files multipart process_local range_reader"
            " .bounded_client .gateway .integrity .multipart .object_metadata .presets .responses"
        ),
        "",
    ),
    "backends.s3.presign": (f"{VALUES} content_types process_local validation .client .gateway .multipart .sigv4", ""),
    "backends.s3.link_operations": (f"types validation {INTERFACE} .presign", ""),
    "backends.s3.storage": (
        (
            f"{VALUES} multipart paths process_local streams validation"
            " diagnostics .client .copy .diagnosis .endpoint .errors .files .gateway .link_operations .listing"
            " .multipart .presets .presign .responses .settings"
        ),
        "botocore.exceptions",
    ),
    "backends.s3": (".files .presets .storage", "boto3 urllib3"),
    # Azure: `client` makes the SDK's clients over `transport`, and `gateway` alone sends requests with them. Others
    # know the SDK's errors, values and signing functions, and its client classes as types of arguments.
    "backends.azure.errors": (VALUES, "azure.core.exceptions"),
    "backends.azure.account": ("errors metadata_encoding paths validation", "azure.identity"),
    "backends.azure.transport": ("range_download", "azure.core.pipeline.transport requests urllib3"),
    "backends.azure.diagnosis": ("diagnostics .account", ""),
    "backends.azure.client": (
        "errors process_local .account .transport",
        "azure.core.credentials azure.identity azure.storage.blob",
    ),
    "backends.azure.gateway": (
        "errors range_download .client .errors",
        "azure.core azure.storage.blob.BlobProperties requests urllib3",
    ),
    "backends.azure.blob_metadata": (
        f"{VALUES} content_types metadata_encoding .gateway",
        (
            "arrow azure.core.MatchConditions azure.storage.blob.BlobProperties azure.storage.blob.BlobType"
            " azure.storage.blob.ContentSettings azure.storage.blob.StandardBlobTier"
        ),
    ),
    "backends.azure.listing": (
        "paths types .blob_metadata .gateway",
        "arrow azure.storage.blob.BlobProperties azure.storage.blob.ContainerClient",
    ),
    "backends.azure.multipart": (
        f"{VALUES} multipart paths {MANIFEST} .blob_metadata .errors .gateway .listing",
        (
            "azure.core.exceptions azure.storage.blob.BlobBlock azure.storage.blob.BlobProperties"
            " azure.storage.blob.ContainerClient"
        ),
    ),
    "backends.azure.files": (
        (
            "types validation files multipart process_local range_download range_reader"
            " .blob_metadata .client .gateway .multipart"
        ),
        "azure.storage.blob.BlobClient",
    ),
    "backends.azure.sas": (
        (
            f"{VALUES} content_types metadata_encoding process_local validation"
            " .account .client .errors .gateway .multipart"
        ),
        (
            "azure.storage.blob.UserDelegationKey azure.storage.blob.generate_blob_sas"
            " azure.storage.blob.generate_container_sas"
        ),
    ),
    "backends.azure.copy": (
        f"types multipart {MANIFEST} .blob_metadata .errors .gateway .multipart .sas",
        (
            "azure.core.MatchConditions azure.core.exceptions azure.storage.blob.BlobBlock"
            " azure.storage.blob.BlobProperties"
        ),
    ),
    "backends.azure.delete": (
        "errors .blob_metadata .errors .gateway",
        "azure.core.exceptions azure.storage.blob.ContainerClient",
    ),
    "backends.azure.link_operations": (f"{VALUES} validation {INTERFACE} {MANIFEST} .sas", ""),
    "backends.azure.storage": (
        (
            f"{VALUES} multipart paths process_local streams validation"
            " diagnostics .account .blob_metadata .client .copy .delete .diagnosis .errors .files .gateway"
            " .link_operations .listing .multipart .sas"
        ),
        "azure.core.exceptions azure.storage.blob.ContainerClient",
    ),
    "backends.azure": (".files .storage", "azure.storage.blob"),
    # SFTP: `transport`, `auth` and `connection` make paramiko's clients; `pool` shares them. `protocol` alone sends
    # requests, and `remote_tree` is the gateway that turns paths into names on the server.
    "backends.sftp.codec": ("", ""),
    "backends.sftp.protocol": (".codec", ""),
    "backends.sftp.errors": ("errors .codec .protocol", "paramiko"),
    "backends.sftp.host_keys": ("errors", "paramiko"),
    "backends.sftp.transport": ("errors", ""),
    "backends.sftp.connection": (".protocol", "paramiko"),
    "backends.sftp.auth": ("errors .connection .errors .host_keys .transport", "paramiko"),
    "backends.sftp.pool": ("errors .connection .protocol", "paramiko"),
    "backends.sftp.remote_tree": (f"{VALUES} paths .codec .errors .protocol", "arrow"),
    "backends.sftp.listing": ("paths .codec .protocol .remote_tree", ""),
    "backends.sftp.atomic_write": (f"{VALUES} paths .codec .errors .protocol .remote_tree", ""),
    "backends.sftp.upload": (f"{VALUES} multipart .atomic_write .codec .errors .pool .protocol", ""),
    "backends.sftp.copy": ("errors .codec .errors .protocol .upload", ""),
    "backends.sftp.multipart": (
        (
            f"{VALUES} multipart paths {MANIFEST}"
            " .atomic_write .codec .copy .errors .listing .pool .protocol .remote_tree .upload"
        ),
        "",
    ),
    "backends.sftp.files": (
        f"{VALUES} files multipart range_reader .atomic_write .copy .errors .pool .protocol .remote_tree .upload",
        "",
    ),
    "backends.sftp.delete": ("paths .listing .multipart .protocol .remote_tree", ""),
    "backends.sftp.storage": (
        (
            f"{VALUES} files multipart paths process_local streams validation {INTERNAL_LINKS}"
            " .atomic_write .auth .copy .delete .errors .files .host_keys .listing .multipart .pool .protocol"
            " .remote_tree .transport .upload"
        ),
        "paramiko",
    ),
    "backends.sftp": (".files .storage", "paramiko"),
    # The public names of every backend, loaded lazily.
    "backends": (f"{VALUES} files tokens _lazy {INTERFACE} {INTERNAL_LINKS} {SHIPPED_BACKENDS}", ""),
    # Storages that show other storages in a different way.
    "scoped": (
        f"{VALUES} diagnostics files multipart paths streams tokens validation {INTERFACE} backends.wrapper",
        "",
    ),
    # From settings to storages. None of the modules below imports a backend.
    # From settings to storages. None of the modules below imports a backend, except `hashfs`.
    "registry": (f"errors validation {INTERFACE}", ""),
    "config": ("errors types validation", "flask werkzeug"),
    "profiles": (f"errors link_usage {INTERFACE}", "flask werkzeug"),
    # The coroutine API. Apps import it; the extension does not.
    "aio.threads": (f"process_local {INTERFACE}", ""),
    "aio.content": (f"errors types streams {INTERFACE} .threads", ""),
    "aio.storage": (f"types files streams validation {INTERFACE} profiles .content .threads", ""),
    "aio.default": (f"{VALUES} paths {INTERFACE} registry profiles .content .storage", "flask"),
    "aio": (".content .default .storage", ""),
    "operations": (f"types files paths streams {INTERFACE} profiles", "flask werkzeug"),
    # Content known by its hash. `hashfs` is a store on local disk, so it is the only module here that knows a backend.
    "content_store": (f"{VALUES} content_types files paths streams validation {INTERFACE} profiles", ""),
    "hashfs": (f"{VALUES} streams {INTERFACE} backends.local.storage profiles content_store", "flask"),
    # Files on models, an optional feature: no module outside of the package imports it.
    # Files on models, an optional feature: only commands import it.
    "sqlalchemy.content_rules": ("content_types", ""),
    "sqlalchemy.greenlets": ("", "sqlalchemy"),
    "sqlalchemy.stored_file": (f"types content_types paths streams {INTERFACE} profiles .content_rules", ""),
    "sqlalchemy.file_type": (f"paths {INTERFACE} profiles .stored_file", "sqlalchemy"),
    "sqlalchemy.ledger": (f"errors paths {INTERFACE} profiles .file_type .greenlets", "sqlalchemy"),
    "sqlalchemy.uploads": (
        f"errors paths {INTERFACE} .file_type .greenlets .ledger .stored_file",
        "sqlalchemy",
    ),
    "sqlalchemy.lifecycle": (
        f"errors {INTERFACE} operations profiles .file_type .greenlets .ledger .stored_file .uploads",
        "sqlalchemy",
    ),
    "sqlalchemy.bulk": (".file_type .lifecycle", "sqlalchemy"),
    "sqlalchemy.fields": (f"{VALUES} paths streams aio {INTERFACE} .file_type .stored_file", "arrow sqlalchemy"),
    "sqlalchemy.databases": ("", "flask sqlalchemy"),
    "sqlalchemy.fsck": (f"errors {INTERFACE} profiles .databases .file_type .ledger", "sqlalchemy"),
    "sqlalchemy.forms": (".file_type .stored_file", "sqlalchemy wtforms"),
    "sqlalchemy": (".bulk .databases .fields .file_type .forms .ledger .lifecycle .stored_file", ""),
    # Stored files as responses, signed links as views.
    "http": ("", ""),
    "http.response_headers": ("types content_types", "flask werkzeug"),
    "http.conditions": (f"{VALUES} {INTERFACE}", "flask werkzeug"),
    "http.file_body": ("errors files process_local range_reader", ""),
    "http.send_file": (f"{VALUES} files {INTERFACE} .conditions .file_body .response_headers", "flask werkzeug"),
    "http.request_body": (f"{VALUES} files {INTERFACE} .file_body", "flask werkzeug"),
    "http.form_body": ("types content_types .request_body", "flask werkzeug"),
    "http.link_view": (
        (
            f"{VALUES} tokens signals {INTERFACE} profiles"
            " .conditions .form_body .request_body .response_headers .send_file"
        ),
        "flask werkzeug",
    ),
    # Commands.
    "cli.arguments": ("", "click"),
    "cli.output": (VALUES, "click"),
    "cli.startup": ("errors .output", "click"),
    "cli.profile": (f"errors {INTERFACE} profiles", "click flask"),
    "cli": (".profile", "click"),
    "cli.capabilities": ("types", ""),
    "cli.command": ("errors .output .profile", "click flask"),
    "cli.web_client": ("", ""),
    "cli.probes": (f"{VALUES} diagnostics {INTERFACE}", ""),
    "cli.link_probes": (f"{VALUES} diagnostics {INTERFACE} .probes .web_client", "flask"),
    "cli.doctor": (
        f"errors diagnostics {INTERFACE} .arguments .command .link_probes .output .probes .profile .web_client",
        "click flask",
    ),
    "cli.delete": (f"{INTERFACE} .command .output .profile", "click"),
    "cli.compare": (f"streams {INTERFACE}", ""),
    "cli.trees": (f"{VALUES} paths validation {INTERFACE} .command .compare .output .profile", "click"),
    "cli.files": (f"types {INTERFACE} .arguments .command .output .profile .trees", "click"),
    "cli.links": ("types .arguments .command .output .profile", "click"),
    "cli.listing": ("types .arguments .command .output .profile", "click"),
    "cli.models": (
        "sqlalchemy.databases sqlalchemy.fsck sqlalchemy.ledger .arguments .command .output .profile",
        "click flask",
    ),
    "cli.maintenance": (
        f"{VALUES} multipart {INTERFACE} .arguments .capabilities .command .models .output .profile",
        "click",
    ),
    # The extension connects the parts.
    "extension": (
        f"{VALUES} link_usage {INTERFACE} registry config profiles http.link_view cli cli.startup",
        "flask werkzeug",
    ),
}
# The package's public names, and the test support, may import every module; no module imports them.
UNRESTRICTED = {"", "testing"}
# Path rules are text rules: only the modules of local disk ask the disk about a path.
FORBIDDEN = {"paths": {"os", "pathlib", "shutil"}}
# Importable for the type checker only: not a package to install.
STANDARD = sys.stdlib_module_names | {"_typeshed"}


def _name(file):
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def _is_unrestricted(module):
    return module.partition(".")[0] in UNRESTRICTED


MODULES = {_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def _imports(module):
    """The names that *module* imports, in full: modules of ours (`flask_storage.errors`), others with the name."""
    file = MODULES[module]
    own_path = ["flask_storage", *module.split(".")] if module else ["flask_storage"]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = own_path[: len(own_path) - node.level + (file.name == "__init__.py")] if node.level else []
            source = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                full_name = f"{source}.{alias.name}"
                is_ours = source.partition(".")[0] == "flask_storage"
                yield source if is_ours and full_name.removeprefix("flask_storage.") not in MODULES else full_name


def _allowed(module):
    """The modules of ours that the row of *module* names, in full, and the third-party names."""
    ours, others = MAY_IMPORT[module]
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    return {f"{package}{name}" if name.startswith(".") else name for name in ours.split()}, others.split()


def _fresh(code):
    """The top-level packages that a new interpreter has loaded after *code*."""
    show = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", show], check=True, stdout=-1, text=True).stdout.split())


def test_every_module_has_a_row():
    """A new module needs a row in the table above."""
    restricted = {module for module in MODULES if not _is_unrestricted(module)}

    assert restricted == MAY_IMPORT.keys()


def test_every_row_names_only_rows_above_it():
    """The table is an order of the modules, so imports cannot form a cycle."""
    seen: set[str] = set()

    for module in MAY_IMPORT:
        ours, _ = _allowed(module)
        assert ours <= seen, module
        seen.add(module)


@pytest.mark.parametrize("module", [module for module in MODULES if not _is_unrestricted(module)])
def test_a_module_imports_only_what_its_row_allows(module):
    """A backend knows the storage interface and its SDK; Flask-facing code knows the interface and no backend."""
    ours, others = _allowed(module)
    imported = set(_imports(module))
    inside = {name for name in imported if name.partition(".")[0] == "flask_storage"}
    outside = {name for name in imported - inside if name.partition(".")[0] not in STANDARD}

    assert {name.removeprefix("flask_storage").removeprefix(".") for name in inside} <= ours
    assert {name for name in outside if not any(f"{name}.".startswith(f"{other}.") for other in others)} == set()
    assert not {name.partition(".")[0] for name in imported} & FORBIDDEN.get(module, set())


def test_backends_import_flask_only_to_build_the_url_of_an_endpoint():
    """A storage can be created and used, and can issue links, without Flask; only `_build_url` imports it."""
    tree = ast.parse(MODULES["backends.internal_links"].read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]

    def imports_flask(node):
        return isinstance(node, ast.Import | ast.ImportFrom) and "flask" in {
            name.partition(".")[0]
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            if not getattr(node, "level", 0)
        }

    imports = [node for node in ast.walk(tree) if imports_flask(node)]
    importing_functions = [
        function.name for function in functions for node in ast.walk(function) if imports_flask(node)
    ]

    assert importing_functions == ["_build_url"]
    assert len(imports) == 1


def test_importing_the_package_loads_no_sdk():
    """An SDK is loaded only when a profile uses its backend."""
    loaded = _fresh("import flask_storage")

    assert "flask_storage" in loaded
    assert not loaded & SDKS


def test_the_extension_starts_without_arrow_and_jwt():
    """`from flask_storage import Storage` loads Flask, not what the first link or date needs."""
    loaded = _fresh("from flask_storage import Storage")

    assert "flask" in loaded
    assert not loaded & (SDKS | {"arrow", "jwt"})
