"""What can go wrong: one tree, built-ins where Python has a word for it, and facts that survive a journey."""

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


def _made(kind):
    """An error of this class with every fact that it can carry."""
    if issubclass(kind, FileNotFoundInStorageError):
        return kind("docs", "a/b.txt")
    if issubclass(kind, PartialFailureError):
        return kind("some failed", {"a/b.txt": TooLargeError("too large", path="a/b.txt")}, backend="docs")
    return kind("it failed: do that", path="a/b.txt", backend="docs")


def _drawn_tree():
    """Class -> (parent, built-in or None), as the picture in the docstring shows them."""
    picture = errors.__doc__.partition(".. code-block:: text")[2].partition("\n\nEach carries")[0]
    line = re.compile(r"^(?P<indent>(?:[│ ] {3})*)[├└]── (?P<name>\w+)\s*(?:\((?P<built_in>\w+)\))?$")
    tree, parents = {}, ["StorageError"]
    lines = [text.removeprefix("    ").rstrip() for text in picture.splitlines() if text.strip()]
    assert lines[0] == "StorageError"
    for text in lines[1:]:
        match = line.match(text)
        assert match, f"the picture has a line that nobody can read: {text!r}"
        depth = len(match["indent"]) // 4
        del parents[depth + 1 :]
        tree[match["name"]] = (parents[depth], match["built_in"])
        parents.append(match["name"])
    return tree


def test_the_picture_shows_the_classes_as_they_are():
    """Whoever reads the docstring knows the tree: every class, its parent, its built-in, in the order of the file."""
    drawn = _drawn_tree()

    real = {}
    for kind in ALL[1:]:
        built_ins = [base.__name__ for base in kind.__bases__ if not issubclass(base, StorageError)]
        real[kind.__name__] = (kind.__bases__[0].__name__, built_ins[0] if built_ins else None)
    assert ALL[0] is StorageError
    assert drawn == real
    assert list(drawn) == list(real)


def test_an_error_is_the_built_in_of_the_same_meaning():
    """`except FileNotFoundError` catches ours."""
    found = {
        kind.__name__: next(base for base in kind.__bases__ if not issubclass(base, StorageError))
        for kind in ALL[1:]
        if any(not issubclass(base, StorageError) for base in kind.__bases__)
    }

    assert found == BUILT_INS


@pytest.mark.parametrize("kind", ALL)
def test_an_error_carries_path_and_backend(kind):
    """The facts are attributes, for whoever has to act on them."""
    error = _made(kind)

    assert error.backend == "docs"
    assert error.path == (None if kind is PartialFailureError else "a/b.txt")


@pytest.mark.parametrize("kind", ALL)
def test_an_error_reads_as_the_sentence_it_was_given(kind):
    """No tuple of arguments, no quotes of `KeyError`, no `[Errno …]` in front."""
    error = _made(kind)

    assert str(error) == error.message
    assert str(error)[0].isalpha()
    assert error.args == (error.message,)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(kind, protocol):
    """A worker process hands its error over whole."""
    error = _made(kind)
    error.add_note("seen in a worker")

    received = pickle.loads(pickle.dumps(error, protocol))

    assert type(received) is kind
    assert str(received) == str(error)
    assert received.args == error.args
    assert (received.path, received.backend) == (error.path, error.backend)
    assert received.__notes__ == ["seen in a worker"]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_can_be_copied(kind):
    """`copy` uses the same door as pickling."""
    error = _made(kind)

    twin = copy.copy(error)

    assert type(twin) is kind
    assert twin is not error
    assert str(twin) == str(error)


@pytest.mark.parametrize(
    "kind", [kind for kind in ALL if kind not in (FileNotFoundInStorageError, PartialFailureError)]
)
def test_path_and_backend_may_be_unknown(kind):
    """They are None then, not missing."""
    error = kind("it failed")

    assert (error.path, error.backend) == (None, None)


def test_a_missing_file_says_which_and_where():
    """The sentence and the attributes are keg-storage's, the number is the operating system's."""
    error = FileNotFoundInStorageError("docs", "a/b.txt")

    assert str(error) == "File a/b.txt not found in docs."
    assert (error.storage_type, error.filename, error.errno) == ("docs", "a/b.txt", 2)


def test_a_missing_file_keeps_its_attributes_on_a_journey():
    """The built-in's own slots are rebuilt too: they are no part of the instance's dictionary."""
    received = pickle.loads(pickle.dumps(FileNotFoundInStorageError("docs", "a/b.txt")))

    assert (received.storage_type, received.filename, received.errno) == ("docs", "a/b.txt", 2)


def test_a_partial_failure_names_each_error():
    """By path; a later change of the mapping that was given changes nothing."""
    given = {"a": TooLargeError("too large", path="a")}
    error = PartialFailureError("one of two failed", given)
    given.clear()

    received = pickle.loads(pickle.dumps(error))

    assert list(error.errors) == ["a"]
    assert str(received.errors["a"]) == "too large"


def test_a_slow_storage_is_an_unavailable_one():
    """Whoever tries again later need not tell the three apart."""
    kinds = (errors.ThrottledError, errors.StorageTimeoutError)

    assert all(issubclass(kind, errors.StorageUnavailableError) for kind in kinds)


def test_a_refusal_is_never_a_missing_file():
    """A 403 is not a 404: neither class is the other, nor is there a common built-in but OSError."""
    assert not issubclass(errors.PermissionDeniedError, FileNotFoundError)
    assert not issubclass(errors.FileNotFoundInStorageError, PermissionError)
