"""Site-styled images: ours, not of a paper and not among the methods of methods.md 4.

Every site tells its acquisition in 35 numbers (`hsl_model/style.py`), in the manifest of its update. With them each
site shows an image as another would have stored it:

    L = BCE(z(r(x)), y) + w mean(1 - cos(h(v_a), h(v_b))),   w = weight, h the encoder's 512 features

    r     the identity, or with `restyle_own` the style of a site drawn at random
    v     one image in the styles of two different sites: of the shared anchor task (`consist` anchors), of the site's
          own (own), or none; its label plays no part

Fusion as Swarm. Without `restyle_own`, and with `consist` none or weight 0, it is Swarm. In round 1 only the own style
is known: r is then the identity, and views differ in noise at most. SAT images pass through an encoder that is scored,
so a run with views has group norm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hsl_model.batches import Batch
from hsl_model.losses import task_loss
from hsl_model.methods.base import LocalRun, Method
from hsl_model.network import NetworkOutput


@dataclass(frozen=True)
class Styled(Method):
    consist: str = "none"
    weight: float = 1.0
    restyle_own: bool = True

    def loss(self, run: LocalRun, output: NetworkOutput, batch: Batch) -> Tensor:
        loss = task_loss(output, batch)
        if batch.views is None:
            return loss
        one, other = run.network.primary_encoder(torch.cat(batch.views)).float().chunk(2)
        return loss + self.weight * (1.0 - functional.cosine_similarity(one, other)).mean()
