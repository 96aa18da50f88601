"""Samples as callers hold them. Batches in memory are written to a temporary folder as they arrive, without a copy."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Union

import numpy

from .errors import InputError, OutputError

#: A path; a list of files; arrays by the names of the model's inputs; or batches of them.
DataLike = Union[str, "os.PathLike[str]", Mapping[str, Any], Iterable[Any]]

#: The array of correct answers.
LABELS = "labels"


class Samples:
    """Where the samples are. Temporary files are deleted with this object."""

    def __init__(self, what: str, data: DataLike, inputs: list[str]) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if isinstance(data, (str, os.PathLike)):
            self.path = os.fspath(data)
            return
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="paredown-")
        except OSError as error:
            raise OutputError(f"samples from memory need a temporary folder: {error}") from error
        self.path = self._folder.name
        try:
            if files := files_in(data):
                self._link(what, files)
            else:
                self._write(what, data, inputs)
        except BaseException:
            self._folder.cleanup()
            raise

    def _link(self, what: str, files: list[Path]) -> None:
        """Names files so that they are read in the order of the list."""
        for number, file in enumerate(files):
            if not file.is_file():
                raise InputError(f"`{what}`: {file} is no file", file=str(file))
            os.symlink(file.resolve(), Path(self.path) / f"batch-{number:09}{file.suffix}")

    def _write(self, what: str, data: Any, inputs: list[str]) -> None:
        announced = len(data) if hasattr(data, "__len__") and is_loader(data) else None
        count = 0
        for batch in batches(what, data):
            arrays = named(what, batch, inputs)
            try:
                # Batches are read in the order of their names.
                write_batch(Path(self.path) / f"batch-{count:09}.npz", arrays)
            except OSError as error:
                raise OutputError(f"batch {count} of `{what}` cannot be written to {self.path}: {error}") from error
            count += 1
        if count == 0:
            hint = "an iterator can be read only once; give a list or a loader"
            raise InputError(f"`{what}` ended before its first batch: {hint}", hint=hint)
        if announced is not None and count < announced:
            raise InputError(f"`{what}` announced {announced} batches and ended after {count}")


def files_in(data: Any) -> list[Path] | None:
    """The files of a list of paths; ``None`` if ``data`` is something else."""
    is_list = isinstance(data, (list, tuple)) and len(data) > 0
    return [Path(file) for file in data] if is_list and all(isinstance(file, (str, os.PathLike)) for file in data) else None


def is_loader(data: Any) -> bool:
    """Whether ``data`` is neither one batch nor a reader that is asked for the next."""
    return not (isinstance(data, Mapping) or hasattr(data, "get_next") or is_array(data))


def is_array(value: Any) -> bool:
    """Whether ``value`` is an array, or a tensor of another library."""
    return isinstance(value, numpy.ndarray) or hasattr(value, "__dlpack__") or hasattr(value, "__array__")


def batches(what: str, data: Any) -> Iterator[Any]:
    """The batches of ``data``."""
    if hasattr(data, "get_next"):
        while (batch := data.get_next()) is not None:
            yield batch
    elif not is_loader(data):
        yield data
    elif isinstance(data, Iterable):
        yield from data
    else:
        kind = type(data).__name__
        raise TypeError(
            f"`{what}` is a path, arrays by the names of the inputs, a loader of batches or an object with get_next(), "
            f"not {kind}"
        )


def named(what: str, batch: Any, inputs: list[str]) -> dict[str, numpy.ndarray]:
    """The arrays of a batch by name: a tuple holds the inputs in order, and perhaps the labels."""
    if isinstance(batch, Mapping):
        arrays = dict(batch)
    elif is_array(batch):
        arrays = dict(zip(inputs, [batch])) if len(inputs) == 1 else {}
    elif isinstance(batch, (tuple, list)):
        if len(batch) not in (len(inputs), len(inputs) + 1):
            raise InputError(
                f"a batch of `{what}` is a tuple of {len(batch)}: the model has the inputs {', '.join(inputs)}, and a last "
                "element would be the labels"
            )
        arrays = dict(zip([*inputs, LABELS], batch))
    else:
        raise InputError(f"a batch of `{what}` is {type(batch).__name__}, not arrays by name, a tuple or an array")
    if not arrays:
        raise InputError(f"a batch of `{what}` is one array: the model has the inputs {', '.join(inputs)}; give a dict")
    return {str(name): as_array(what, str(name), value) for name, value in arrays.items()}


def as_array(what: str, name: str, value: Any) -> numpy.ndarray:
    """The value as a NumPy array, without a copy where it is in the memory of the CPU."""
    try:
        if hasattr(value, "detach") and hasattr(value, "cpu"):
            value = value.detach().cpu().numpy()
        elif hasattr(value, "__dlpack__") and not isinstance(value, numpy.ndarray):
            value = numpy.from_dlpack(value)
        array = numpy.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        hint = "convert it to a NumPy array of numbers"
        raise InputError(f"array '{name}' of `{what}` cannot be read ({error}): {hint}", hint=hint) from error
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        hint = "convert it to numbers or booleans"
        raise InputError(f"array '{name}' of `{what}` has the type {array.dtype}: {hint}", hint=hint)
    if array.ndim == 0:
        hint = "give batches, as a DataLoader makes them"
        raise InputError(f"array '{name}' of `{what}` is a single number: {hint}", hint=hint)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def write_batch(path: Path, arrays: Mapping[str, numpy.ndarray]) -> None:
    """Writes arrays as an ``.npz``, piece by piece."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                numpy.lib.format.write_array(entry, array, allow_pickle=False)
