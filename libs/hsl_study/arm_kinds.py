"""What an arm can be besides a federation of the study's method: references and baselines (docs/studies.md).

pooled       Central: one node holds what all nodes hold                                   (methods.md 4.1)
split        SplitAVG: a front of the network at each node, one back for all               (methods.md 4.8)
baseline     no network: one fixed feature, or logistic regression on small pictures
"""

from typing import Literal

from pydantic import Field

from hsl_model.protocol.config import Message


class PooledConfig(Message):
    """`sampler`: what a balanced sampler evens out. Where prevalence differs from site to site, pooled data let the
    scanner predict the label; with `site-class` it cannot. `steps`: those of the site with most, or of all together."""

    sampler: Literal["class", "site-class"] = "class"
    steps: Literal["one-site", "all-sites"] = "one-site"


class SplitConfig(Message):
    cut: Literal["conv1", "layer1"] = Field(default="conv1", description="the last part that every node has of its own")


class BaselineConfig(Message):
    kind: Literal["one-scalar", "logistic"]
    feature: Literal["mean", "spread", "sharpness"] = Field(
        default="mean", description="one-scalar: of an image's pixels; sharpness is the mean step between neighbours"
    )
    side: int = Field(default=8, ge=1, le=64, description="logistic: images are averaged down to side x side")
    penalty: float = Field(default=1.0, gt=0, description="logistic: penalty / 2 x squared length of the coefficients")
