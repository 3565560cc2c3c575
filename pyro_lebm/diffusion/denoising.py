"""What samplers ask of a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

# (noisy value, level) -> the clean value, alone or with its standard deviation ("spread") given
# the noisy one. The level is ``(1,)``, or broadcasts against the noisy value.
Found = Tensor | tuple[Tensor, Tensor]
Denoise = Callable[[Tensor, Tensor], Found]


def at(
    denoise: Denoise, levels: Sequence[float], *, spread: bool
) -> Sequence[Callable[[Tensor], Found]]:
    """The denoiser at each of these levels; one with a method ``at`` prepares them all at once."""
    prepare = getattr(denoise, "at", None)
    if prepare is not None:
        prepared: Sequence[Callable[[Tensor], Found]] = prepare(levels, spread=spread)
        return prepared
    return [lambda u, s=level: denoise(u, u.new_full((1,), s)) for level in levels]  # type: ignore[misc]


def clean_of(found: Found) -> Tensor:
    """The clean value."""
    return found[0] if isinstance(found, tuple) else found


def both_of(found: Found) -> tuple[Tensor, Tensor | None]:
    """The clean value and its spread, None where it is not known."""
    return found if isinstance(found, tuple) else (found, None)
