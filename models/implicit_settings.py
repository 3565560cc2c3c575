"""How a model samples by implicit diffusion: what may be set again after training."""

from __future__ import annotations

from pyro_lebm.diffusion.implicit import check_eta
from pyro_lebm.diffusion.schedule import levels
from pyro_lebm.number_checks import check_numbers, check_whole


class ImplicitSettings:
    """Steps, stochasticity and order of a sampler, checked whenever they are set."""

    @property
    def steps(self) -> int:
        """S, calls of the denoiser for a value."""
        return self._steps

    @steps.setter
    def steps(self, steps: int) -> None:
        check_whole(steps=steps)
        levels(steps)
        self._steps = steps

    @property
    def stochasticity(self) -> float:
        """eta, 0 for implicit sampling, 1 for ancestral."""
        return self._stochasticity

    @stochasticity.setter
    def stochasticity(self, stochasticity: float) -> None:
        check_numbers(stochasticity=stochasticity)
        check_eta(stochasticity, "stochasticity")
        self._stochasticity = float(stochasticity)

    @property
    def order(self) -> int:
        """Of the deterministic sampler, 1 or 2; above stochasticity 0 there is but one."""
        return self._order

    @order.setter
    def order(self, order: int) -> None:
        check_whole(order=order)
        if order not in (1, 2):
            raise ValueError(f"order: expected 1 or 2, got {order}")
        self._order = order

    @property
    def sampler(self) -> str:
        """All of it in words."""
        return f"{self.steps} steps, stochasticity {self.stochasticity:g}, order {self.order}"
