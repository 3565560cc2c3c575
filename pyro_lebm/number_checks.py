"""What numbers have to be: each error names the argument, what was expected and what came."""

from __future__ import annotations

from numbers import Integral, Real


def check_whole(**numbers: int) -> None:
    """Refuse what is no whole number, such as 2.0 or True."""
    for name, number in numbers.items():
        if not isinstance(number, Integral) or isinstance(number, bool):
            raise TypeError(f"{name}: expected a whole number, got {number!r}")


def check_numbers(**numbers: float) -> None:
    """Refuse what is no real number."""
    for name, number in numbers.items():
        if not isinstance(number, Real):
            raise TypeError(f"{name}: expected a number, got {number!r}")
