"""What the wall tells whoever listens (`Blinker <https://blinker.readthedocs.io>`_ signals).

The sender is the storage; every signal carries ``path``. Receivers run in the caller's thread, after the deed.

>>> from flask_storage.signals import file_stored
>>> @file_stored.connect
... def note(storage, path, **extra):
...     print(f"{path} stored in {storage.name}")
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

file_stored = _signals.signal("file-stored", "A file was published: written, copied or moved to ``path``.")
file_read = _signals.signal("file-read", "A file was opened for reading.")
file_deleted = _signals.signal("file-deleted", "A file was deleted, or moved away. It may not have existed.")
link_issued = _signals.signal("link-issued", "A link was made; ``request`` says on which terms.")
link_used = _signals.signal("link-used", "A link was honoured; ``operation`` and ``token_data`` say which.")
