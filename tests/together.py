"""Many threads at once, which must come to an end."""

import queue
import threading

import pytest

PATIENCE = 120  # seconds after which threads that wait for each other are called a deadlock


def together(work, threads):
    """Run ``work(number)`` in so many threads, begun at the same moment, and return what each returned.

    Threads that never end fail the test and are left behind, for nothing can end them; the first error of any is raised
    after all have ended.
    """
    barrier = threading.Barrier(threads)
    ended: queue.Queue[tuple[int, object, BaseException | None]] = queue.Queue()

    def begin(number):
        try:
            barrier.wait(PATIENCE)
            ended.put((number, work(number), None))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            ended.put((number, None, error))

    for number in range(threads):
        threading.Thread(target=begin, args=(number,), daemon=True).start()  # a daemon does not keep pytest from ending
    results, errors = {}, []
    for _ in range(threads):
        try:
            number, results[number], error = ended.get(timeout=PATIENCE)
        except queue.Empty:
            pytest.fail(f"{threads - len(results)} of {threads} threads wait for ever")
        if error is not None:
            errors.append(error)
    if errors:
        raise errors[0]
    return [results[number] for number in range(threads)]
