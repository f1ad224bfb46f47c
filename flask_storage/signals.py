"""The signals that the storage interface sends (`Blinker <https://blinker.readthedocs.io>`_).

The sender is the storage; every signal passes ``path``. Receivers run in the caller's thread, after the operation.

>>> from flask_storage.signals import file_stored
>>> @file_stored.connect
... def log_stored_file(storage, path, **extra):
...     print(f"{path} stored in {storage.name}")
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

file_stored = _signals.signal("file-stored", "A file was published: written, copied or moved to ``path``.")
file_read = _signals.signal("file-read", "A file was opened for reading.")
file_deleted = _signals.signal("file-deleted", "A file was deleted, or moved away. It may not have existed.")
link_issued = _signals.signal("link-issued", "A link was issued; ``request`` has its operations and constraints.")
link_used = _signals.signal("link-used", "A link was used for ``operation``; ``token_data`` is the data of its token.")
