"""The peers, and what to install when one of them is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

GROUP = "pip install --group bench"


@dataclass(frozen=True)
class Library:
    """A peer that is a Python library; the dependency group ``bench`` installs it."""

    name: str
    module: str

    def missing(self) -> str | None:
        """Say how to install it, or nothing when it is here."""
        if importlib.util.find_spec(self.module.partition(".")[0]):
            return None
        return f"install {self.name} ({GROUP})"

    def version(self) -> str:
        """Return the installed version."""
        return importlib.metadata.version(self.name)

    def load(self) -> ModuleType:
        """Import it, only when it is measured."""
        return importlib.import_module(self.module)


@dataclass(frozen=True)
class Program:
    """A peer that is a program of the system."""

    name: str
    version_flag: str = "--version"
    word: int = -1
    """Which word of what it says is the version."""

    def missing(self) -> str | None:
        """Say how to install it, or nothing when it is here."""
        return None if self.path() else f"install {self.name} (a program of the system)"

    def version(self) -> str:
        """Return the version from the first line that it prints."""
        said = subprocess.run([str(self.path()), self.version_flag], capture_output=True, text=True, check=True)
        return (said.stdout + said.stderr).splitlines()[0].split()[self.word].rpartition("/")[2]

    def path(self) -> str | None:
        """Return where it is, also in the directories that only administrators have on their path."""
        return shutil.which(self.name) or shutil.which(self.name, path="/usr/sbin:/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Emulator:
    """A server that a script of the tests installs beside the project."""

    name: str
    note: str
    """The file in the project that says which package was installed; it is written when all is there."""
    script: str

    def missing(self) -> str | None:
        """Say how to install it, or nothing when it is here."""
        return None if self._note().is_file() else f"install {self.name} ({self.script})"

    def version(self) -> str:
        """Return the installed version."""
        return self._note().read_text().strip().rpartition("@")[2]

    def _note(self) -> Path:
        return Path(__file__).parents[2] / self.note


Peer = Library | Program | Emulator

CP = Program("cp")
CEPH = Program("radosgw", word=2)
FIND = Program("find")
NGINX = Program("nginx", "-v")
SFTP = Program("sftp")  # it tells no version: that is ssh's
SSH = Program("ssh", "-V", word=0)
SSHD = Program("sshd")
ADLFS = Library("adlfs", "adlfs")
ASYNCSSH = Library("asyncssh", "asyncssh")
AZURE_SDK = Library("azure-storage-blob", "azure.storage.blob")
AZURITE = Emulator("azurite", ".venv-azurite/azurite", "tests/services/install_azurite")
BOTO3 = Library("boto3", "boto3")
DEPOT = Library("filedepot", "depot.manager")
DJANGO = Library("django", "django.core.files.storage")
FLASK = Library("flask", "flask")
FSSPEC = Library("fsspec", "fsspec.implementations.local")
GUNICORN = Library("gunicorn", "gunicorn")
KEG = Library("KegStorage", "keg_storage.backends.filesystem")
KEG_S3 = Library("KegStorage", "keg_storage.backends.s3")
KEG_SFTP = Library("KegStorage", "keg_storage.backends.sftp")
OBSTORE = Library("obstore", "obstore")
PARAMIKO = Library("paramiko", "paramiko")
PYJWT = Library("pyjwt", "jwt")
SMART_OPEN = Library("smart_open", "smart_open")
SQLALCHEMY = Library("sqlalchemy", "sqlalchemy")
SQLALCHEMY_FILE = Library("sqlalchemy-file", "sqlalchemy_file")
SSHFS = Library("sshfs", "sshfs")
WERKZEUG = Library("werkzeug", "werkzeug")

ALL = (
    *(FLASK, WERKZEUG, PYJWT, GUNICORN, DJANGO, FSSPEC, KEG, BOTO3, SMART_OPEN, OBSTORE, AZURE_SDK, ADLFS),
    *(SQLALCHEMY, SQLALCHEMY_FILE, DEPOT),
    *(PARAMIKO, ASYNCSSH, SSHFS, CP, FIND, NGINX, SSH, CEPH, AZURITE),
)
