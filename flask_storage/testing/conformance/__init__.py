"""The conformance suite: a test for every guarantee of the storage interface, one module for each subject.

No test is skipped. If a storage declares a capability unsupported (:class:`~flask_storage.Capabilities`), the same test
expects :class:`~flask_storage.errors.UnsupportedOperationError`.
"""

from __future__ import annotations

from .atomic_writes import AtomicWriteTests
from .base import ConformanceBase, needs
from .concurrency import ConcurrencyTests
from .copy_and_move import CopyAndMoveTests
from .delete import DeleteTests
from .download import DownloadTests
from .headers import HeaderTests
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
    HeaderTests,
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
    """Every test of the suite. Subclass it in your tests and return your storage from ``make_storage``.

    ::

        from flask_storage.testing import BackendConformance


        class TestMyStorage(BackendConformance):
            def make_storage(self, tmp_path):
                return MyStorage(...)

    ``make_storage`` is called once for each test and must return an empty storage. The tests use only the public
    operations of the storage. Override a test method only where your service cannot meet the guarantee, and say why.
    """
