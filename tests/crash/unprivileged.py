"""Runs a function in a child process without root privileges, so that permissions of files have an effect."""

import os
import pickle
import sys
import traceback

UNPRIVILEGED_ID = 65534


def run_unprivileged(function):
    """Call *function* in a forked child that is not root; return its result, or raise its error."""
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(UNPRIVILEGED_ID)
                os.setuid(UNPRIVILEGED_ID)
            response = True, function()
        except BaseException as error:  # noqa: BLE001  # raised in the parent
            response = False, error
        with os.fdopen(send, "wb") as pipe:
            try:
                pipe.write(pickle.dumps(response))
            except Exception:  # noqa: BLE001  # an error that cannot be pickled is printed
                traceback.print_exc(file=sys.__stderr__)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        returned, value = pickle.load(pipe)
    os.waitpid(pid, 0)
    if returned:
        return value
    raise value
