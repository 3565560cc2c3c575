"""IDX files, in which MNIST and its successors come."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

UBYTE = 8  # the one type of number that these data sets use


def read_idx(folder: str | os.PathLike[str], name: str) -> Tensor:
    """The array of bytes in a file of a folder, gzipped or not.

    Raises:
        FileNotFoundError: no such file, with or without ``.gz``.
        ValueError: a file that is truncated or damaged, or no IDX file of bytes.
    """
    path = Path(folder) / name
    if path.exists():
        content = path.read_bytes()
    elif (zipped := path.with_name(f"{name}.gz")).exists():
        try:
            content = gzip.decompress(zipped.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{zipped}: expected a gzipped file, got {error}") from error
    else:
        raise FileNotFoundError(f"folder: expected {name} or {name}.gz in {folder}, found neither")
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UBYTE:
        raise ValueError(f"{path}: expected an IDX file of bytes, got one that begins otherwise")
    begin = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:begin]) if len(content) >= begin else ()
    if not shape or len(content) - begin != np.prod(shape):
        raise ValueError(f"{path}: expected {shape} bytes after the header, got a truncated file")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=begin).reshape(shape).copy())
