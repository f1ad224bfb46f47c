"""The coroutine (async) API of every storage, for async views of Flask and for Quart.

>>> import asyncio
>>> from flask_storage import MemoryStorage
>>> from flask_storage.aio import AsyncStorage
>>> files = AsyncStorage(MemoryStorage())
>>> asyncio.run(files.save("../notes.txt", b"hello"))
'notes.txt'
>>> asyncio.run(files.read("notes.txt"))
b'hello'
"""

from .content import Content
from .default import DefaultStorage, FileSystemStorage, default_storage
from .storage import AsyncStorage, Storage

__all__ = ["AsyncStorage", "Content", "DefaultStorage", "FileSystemStorage", "Storage", "default_storage"]
