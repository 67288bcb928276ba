"""Whose hash a plan or an experiment keeps: `hash:`. Pure.

hash: unleash                                  # hashed with the split's name
hash: {algorithm: flagd, seed: new-welcome}    # with the name of the flag there
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from aura.delivery.split import Arm, Hashing
from aura.errors import SplitError
from aura.stats.hashing import HASHES, Hash
from aura.yamlnodes import Node


def hashing_of(node: Node) -> Hashing:
    """The value of `hash:`. Raises PlanError with file and line."""
    if node.scalar:
        return Hashing(cast(Hash, node.choice(*HASHES)))
    found = node.fields({"seed"}, required=("algorithm",))
    seed = found["seed"].text() if "seed" in found else ""
    return Hashing(cast(Hash, found["algorithm"].choice(*HASHES)), seed)


def hashing_for(split: str, named: Hashing | None) -> Hashing:
    """How the units of that split are hashed: without a seed with its name, as the systems do whose
    hashes these are; anew for each run that moves it when nothing is named."""
    return Hashing() if named is None else Hashing(named.algorithm, named.seed or split)


def untellable(named: Hashing | None, arm: str, weights: Iterable[float]) -> Iterator[SplitError]:
    """The weights of an arm that the hash cannot tell exactly."""
    for weight in weights if named is not None else ():
        try:
            (named or Hashing()).check(Arm(arm, weight))
        except SplitError as error:
            yield error
