"""Everything that the wall promises, as tests: one module for each theme, one class that asks them all.

What a storage declares missing (:class:`~flask_storage.Capabilities`) is not skipped: the same test then demands that
it is refused with :class:`~flask_storage.errors.UnsupportedOperationError`.
"""

from __future__ import annotations

from .copying import Copying
from .deleting import Deleting
from .fetching import Fetching
from .finishing import Finishing
from .ground import Ground, needs
from .links import Links
from .listing import Listing
from .naming import Naming
from .options import Options
from .parts import PartUploads
from .publishing import Publishing
from .reading import Reading
from .saving import Saving
from .sharing import Sharing
from .upkeep import Upkeep
from .writing import Writing

__all__ = ["BackendConformance", "Ground", "needs"]


class BackendConformance(
    Reading,
    Fetching,
    Writing,
    Options,
    Saving,
    Publishing,
    Naming,
    Listing,
    Deleting,
    Copying,
    Links,
    PartUploads,
    Finishing,
    Sharing,
    Upkeep,
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
