"""Which shared anchor task an arm trains on, and what is done to it first. Left out, it is the study's own, untouched.

    sources   bundles by name: `sat` for the study's [sat], others for its [sats.NAME]
    draws     how often each source is drawn anew, by keys of their own; two draws may share images
    labels    permuted: a bundle's labels over its images in one keyed order: the same counts, nothing to learn
    images    noise: every pixel is one of the bundle's, drawn at random: the same mean and spread, nothing to see

With several sources or draws the nodes, in sorted order, take them in turn. A hospital's run knows one SAT digest;
anchors that differ between nodes exist in a study only, as a control (methods.md 1.6).
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from hsl_model.protocol.config import Message

OWN = "sat"


class ArmSat(Message):
    sources: tuple[str, ...] = Field(default=(OWN,), min_length=1)
    draws: int = Field(default=1, ge=1, le=64)
    labels: Literal["given", "permuted"] = "given"
    images: Literal["given", "noise"] = "given"

    @property
    def per_node(self) -> bool:
        return len(self.sources) * self.draws > 1

    def bundles(self) -> list[str]:
        """In the order in which nodes take them: every source once before any second draw."""
        return [bundle_name(source, draw) for draw in range(self.draws) for source in self.sources]

    def bundle_of(self, nodes: Sequence[str]) -> dict[str, str]:
        names = self.bundles()
        return {node: names[at % len(names)] for at, node in enumerate(sorted(nodes))}


def bundle_name(source: str, draw: int) -> str:
    return f"{source}.{draw}" if draw else source
