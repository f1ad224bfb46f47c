"""Runs a function in a child process, as a user for whom modes of files and directories mean something."""

import os
import pickle
import sys
import traceback

NOBODY = 65534


def as_nobody(function):
    """Return what *function* returns, called in a forked child that is not root; its error is raised here."""
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            answer = True, function()
        except BaseException as error:  # noqa: BLE001  # raised in the parent
            answer = False, error
        with os.fdopen(send, "wb") as pipe:
            try:
                pipe.write(pickle.dumps(answer))
            except Exception:  # noqa: BLE001  # what cannot be pickled is shown at least
                traceback.print_exc(file=sys.__stderr__)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        returned, value = pickle.load(pipe)
    os.waitpid(pid, 0)
    if returned:
        return value
    raise value
