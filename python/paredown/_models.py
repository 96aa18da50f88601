"""Models as callers hold them: a path, the bytes of a file, or a message of the package ``onnx``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Union

from . import _paredown
from .errors import InputError

if TYPE_CHECKING:
    import onnx

ModelLike = Union[str, "os.PathLike[str]", bytes, "onnx.ModelProto", _paredown.Model]


def read(model: ModelLike) -> _paredown.Model:
    """Reads a model. Its weights stay where they are: in the mapped file, or in the given bytes."""
    if isinstance(model, _paredown.Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        return _paredown.Model.load(os.fspath(model))
    return _paredown.Model.from_bytes(content(model))


def content(model: bytes | onnx.ModelProto | _paredown.Model) -> bytes:
    """The bytes of a model that is in memory."""
    if isinstance(model, (bytes, bytearray, memoryview)):
        return model if isinstance(model, bytes) else bytes(model)
    serialize = getattr(model, "SerializeToString", None)
    if serialize is None:
        kind = type(model).__name__
        raise TypeError(f"a model is a path, the bytes of an ONNX file or an onnx.ModelProto, not {kind}")
    try:
        serialized: bytes = serialize()
    except ValueError as error:
        hint = "save it with external data and give the path"
        raise InputError(f"the model cannot be serialized ({error}): {hint}", hint=hint) from error
    return serialized
