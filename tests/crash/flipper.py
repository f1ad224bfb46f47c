"""A program that swaps two names again and again, atomically: ``flipper.py one other [one other …]``."""

import ctypes
import os
import sys

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

if __name__ == "__main__":
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    pairs = [[os.fsencode(name) for name in sys.argv[at : at + 2]] for at in range(1, len(sys.argv), 2)]
    os.write(1, b"ready\n")
    while True:
        for one, other in pairs:
            renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)  # fails while a name does not exist
