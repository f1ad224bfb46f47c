"""Everything that the wall promises, as tests: one module for each theme, one class that asks them all.

What a storage declares missing (:class:`~flask_storage.Capabilities`) is not skipped: the same test then demands that
it is refused with :class:`~flask_storage.errors.UnsupportedOperationError`.
"""

from __future__ import annotations

from .atomic_writes import AtomicWriteTests
from .base import ConformanceBase, needs
from .concurrency import ConcurrencyTests
from .copy_and_move import CopyAndMoveTests
from .delete import DeleteTests
from .download import DownloadTests
from .links import LinkTests
from .listing import ListTests
from .maintenance import MaintenanceTests
from .multipart import MultipartTests
from .multipart_complete import MultipartCompleteTests
from .paths import PathTests
from .read import ReadTests
from .save import SaveTests
from .write import WriteTests
from .write_options import WriteOptionsTests

__all__ = ["BackendConformance", "ConformanceBase", "needs"]


class BackendConformance(
    ReadTests,
    DownloadTests,
    WriteTests,
    WriteOptionsTests,
    SaveTests,
    AtomicWriteTests,
    PathTests,
    ListTests,
    DeleteTests,
    CopyAndMoveTests,
    LinkTests,
    MultipartTests,
    MultipartCompleteTests,
    ConcurrencyTests,
    MaintenanceTests,
):
    """Subclass this in your tests, make your storage, and run pytest.

    ::

        from flask_storage.testing import BackendConformance


        class TestMyStorage(BackendConformance):
            def make_storage(self, tmp_path):
                return MyStorage(...)

    ``make_storage`` is called once for each test and returns an empty storage. Whatever a test needs beyond that it
    makes through the wall. Override a test method only to say why your place must differ.
    """
