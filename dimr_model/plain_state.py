"""What solvers have in common whose state is the noisy input itself."""

from torch import Tensor


class PlainState:
    """The state is what the network sees, and no step adds noise."""

    adds_noise = False

    def begin(self, noise: Tensor) -> Tensor:
        """The state that sampling starts from."""
        return noise

    def noisy(self, state: Tensor, timestep: Tensor) -> Tensor:
        """What the network sees."""
        return state
