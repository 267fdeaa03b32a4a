"""Random views of an image that come again, so that what a network makes of them can be kept."""

from dataclasses import dataclass

import numpy as np

from segkd.runner.recipe.seeds import seed_for


@dataclass(frozen=True)
class FixedViews:
    """Each image of a stream has the views 0 to count - 1, whatever run looks at them.

    Attributes:
        seed: the draws of a view come from (seed, view, index) alone.
    """

    count: int
    seed: int

    def generator(self, view: int, index: int) -> np.random.Generator:
        """What a view of an image is drawn with."""
        return np.random.default_rng((self.seed, view, index))

    def order(self, turn: int, index: int, seed: int) -> np.ndarray:
        """(count,) views of an image in the order in which the epochs of a turn, `count` epochs, show them.

        Args:
            seed: of the run; other runs see the same views in another order.
        """
        return np.random.default_rng((seed_for(seed, "views"), turn, index)).permutation(self.count)

    def shown(self, epoch: int, index: int, seed: int) -> int:
        """The view of an image that an epoch shows; each is shown once before one comes again."""
        turn, place = divmod(epoch, self.count)
        return int(self.order(turn, index, seed)[place])
