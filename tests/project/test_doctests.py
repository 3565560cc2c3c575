"""The examples in docstrings are true, run under each module's installed name."""

from __future__ import annotations

import doctest
import importlib

import pytest

from house import modules


@pytest.mark.parametrize("module", modules())
def test_examples(module: str) -> None:
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder().find(importlib.import_module(module)):
        runner.run(example, out=output.append)
    assert runner.failures == 0, "".join(output)
