"""Anchors: the fixed, class-balanced SAT images beside which a single image is scored (methods.md H8).

The network wants a pair, and a score must depend neither on chance nor on the batch an image is in. So every image is
paired with the same K anchors, whose features are computed once for a state of the weights, and its score is the mean
logit. All nodes hold the same SAT bundle, and so choose the same anchors; `hsl_model.scoring.Scorer` caches their
features.
"""

import numpy as np
import numpy.typing as npt

from hsl_model.protocol.errors import ConfigError
from hsl_model.seeding import generator


def choose_anchors(labels: npt.NDArray[np.uint8], num_anchors: int, seed: int) -> npt.NDArray[np.intp]:
    """Sorted indices of `num_anchors` SAT images, half of each class (one more negative where the number is odd).

    The same at every node of a run, which share the SAT and the run's `seed`. Raises `ConfigError` where a class has
    too few images.
    """
    chosen: list[npt.NDArray[np.intp]] = []
    for label, count in ((0, num_anchors - num_anchors // 2), (1, num_anchors // 2)):
        candidates = np.flatnonzero(np.asarray(labels) == label)
        if len(candidates) < count:
            raise ConfigError(
                reason=f"the SAT has {len(candidates)} images of class {label}, but {count} anchors of it are wanted; "
                "build a larger SAT, or set training.num_anchors lower"
            )
        chosen.append(generator(seed, "anchors", label).permutation(candidates)[:count])
    return np.sort(np.concatenate(chosen))
