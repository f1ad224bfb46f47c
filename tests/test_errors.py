"""The error classes: their hierarchy, their built-in base classes, their attributes, and pickling."""

import copy
import inspect
import pickle
import re

import pytest

from flask_storage import errors
from flask_storage.errors import FileNotFoundInStorageError, PartialFailureError, StorageError, TooLargeError

ALL = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, StorageError)]

BUILT_INS = {
    "FileNotFoundInStorageError": FileNotFoundError,
    "FileExistsInStorageError": FileExistsError,
    "InvalidPathError": ValueError,
    "PermissionDeniedError": PermissionError,
    "UnsupportedOperationError": NotImplementedError,
    "StorageUnavailableError": ConnectionError,
    "StorageTimeoutError": TimeoutError,
    "NotAFileError": IsADirectoryError,
    "ConfigurationError": ValueError,
    "UnknownProfileError": KeyError,
}


def _make_error(kind):
    """An error of this class with every attribute set."""
    if issubclass(kind, FileNotFoundInStorageError):
        return kind("docs", "a/b.txt")
    if issubclass(kind, PartialFailureError):
        return kind("some failed", {"a/b.txt": TooLargeError("too large", path="a/b.txt")}, backend="docs")
    return kind("it failed: do that", path="a/b.txt", backend="docs")


def _documented_tree():
    """Class -> (parent, built-in or None), parsed from the diagram in the module docstring."""
    diagram = errors.__doc__.partition(".. code-block:: text")[2].partition("\n\nAn error has ``path``")[0]
    line = re.compile(r"^(?P<indent>(?:[│ ] {3})*)[├└]── (?P<name>\w+)\s*(?:\((?P<built_in>\w+)\))?$")
    tree, parents = {}, ["StorageError"]
    lines = [text.removeprefix("    ").rstrip() for text in diagram.splitlines() if text.strip()]
    assert lines[0] == "StorageError"
    for text in lines[1:]:
        match = line.match(text)
        assert match, f"the diagram has a line that cannot be parsed: {text!r}"
        depth = len(match["indent"]) // 4
        del parents[depth + 1 :]
        tree[match["name"]] = (parents[depth], match["built_in"])
        parents.append(match["name"])
    return tree


def test_the_documented_tree_matches_the_classes():
    """Every class, its parent, its built-in and the order of definition are as in the module docstring."""
    documented = _documented_tree()

    real = {}
    for kind in ALL[1:]:
        built_ins = [base.__name__ for base in kind.__bases__ if not issubclass(base, StorageError)]
        real[kind.__name__] = (kind.__bases__[0].__name__, built_ins[0] if built_ins else None)
    assert ALL[0] is StorageError
    assert documented == real
    assert list(documented) == list(real)


def test_an_error_is_the_built_in_of_the_same_meaning():
    """`except FileNotFoundError` catches our error."""
    found = {
        kind.__name__: next(base for base in kind.__bases__ if not issubclass(base, StorageError))
        for kind in ALL[1:]
        if any(not issubclass(base, StorageError) for base in kind.__bases__)
    }

    assert found == BUILT_INS


@pytest.mark.parametrize("kind", ALL)
def test_an_error_carries_path_and_backend(kind):
    """Callers can read them as attributes."""
    error = _make_error(kind)

    assert error.backend == "docs"
    assert error.path == (None if kind is PartialFailureError else "a/b.txt")


@pytest.mark.parametrize("kind", ALL)
def test_the_text_of_an_error_is_its_message(kind):
    """No tuple of arguments, no quotes of `KeyError`, no `[Errno …]` prefix."""
    error = _make_error(kind)

    assert str(error) == error.message
    assert str(error)[0].isalpha()
    assert error.args == (error.message,)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(kind, protocol):
    """A worker process can pass it to its parent, with notes and attributes."""
    error = _make_error(kind)
    error.add_note("seen in a worker")

    received = pickle.loads(pickle.dumps(error, protocol))

    assert type(received) is kind
    assert str(received) == str(error)
    assert received.args == error.args
    assert (received.path, received.backend) == (error.path, error.backend)
    assert received.__notes__ == ["seen in a worker"]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_can_be_copied(kind):
    """`copy` uses the same protocol as pickling."""
    error = _make_error(kind)

    twin = copy.copy(error)

    assert type(twin) is kind
    assert twin is not error
    assert str(twin) == str(error)


@pytest.mark.parametrize(
    "kind", [kind for kind in ALL if kind not in (FileNotFoundInStorageError, PartialFailureError)]
)
def test_path_and_backend_may_be_unknown(kind):
    """They are None then."""
    error = kind("it failed")

    assert (error.path, error.backend) == (None, None)


def test_a_missing_file_error_names_path_and_storage():
    """The message and the attributes are keg-storage's, the number is `ENOENT`."""
    error = FileNotFoundInStorageError("docs", "a/b.txt")

    assert str(error) == "File a/b.txt not found in docs."
    assert (error.storage_type, error.filename, error.errno) == ("docs", "a/b.txt", 2)


def test_a_missing_file_error_keeps_its_attributes_when_pickled():
    """Those of the built-in OSError too, which are not in the instance's `__dict__`."""
    received = pickle.loads(pickle.dumps(FileNotFoundInStorageError("docs", "a/b.txt")))

    assert (received.storage_type, received.filename, received.errno) == ("docs", "a/b.txt", 2)


def test_a_partial_failure_holds_an_error_per_path():
    """In a copy of the mapping that was given."""
    errors_by_path = {"a": TooLargeError("too large", path="a")}
    error = PartialFailureError("one of two failed", errors_by_path)
    errors_by_path.clear()

    received = pickle.loads(pickle.dumps(error))

    assert list(error.errors) == ["a"]
    assert str(received.errors["a"]) == "too large"


def test_throttling_and_time_outs_are_unavailable_errors():
    """A caller that retries later need not distinguish the three."""
    kinds = (errors.ThrottledError, errors.StorageTimeoutError)

    assert all(issubclass(kind, errors.StorageUnavailableError) for kind in kinds)


def test_permission_denied_and_not_found_are_unrelated():
    """A 403 is not a 404: neither class is the other, and their only common built-in is OSError."""
    assert not issubclass(errors.PermissionDeniedError, FileNotFoundError)
    assert not issubclass(errors.FileNotFoundInStorageError, PermissionError)
