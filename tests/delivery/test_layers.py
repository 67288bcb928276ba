"""Layers, hold-outs and gates: who is in which experiment, and that nobody is moved."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.delivery.layers import Gate, Layer, Tenant, held_out, size_of
from aura.delivery.split import Arm, Split
from aura.errors import LayerError, SplitError
from aura.stats.hashing import BUCKETS

UNITS = [f"u{number}" for number in range(3_000)]
ARMS = (Arm("a", 0.5), Arm("b", 0.5))


def split(layer: Layer, run: str, holdout: int = 0) -> Split:
    tenant = layer.of(run)
    assert tenant is not None
    gate = Gate(layer.seed, tenant.ranges, holdout)
    return Split(run, 1, f"{run}/seed", ARMS, gate=gate)


def members(gate: Gate | None) -> set[str]:
    assert gate is not None
    return {unit for unit in UNITS if gate.admits(unit)}


# -- what happens to a layer over time ---------------------------------------------------------

moves = st.lists(
    st.tuples(st.sampled_from(["begin", "end"]), st.integers(0, 5), st.integers(1, 6_000)),
    max_size=20,
)


@given(moves)
def test_ranges_never_overlap_and_nobody_is_moved_by_others(history: list[tuple]) -> None:  # type: ignore[type-arg]
    layer = Layer("checkout")
    for what, who, places in history:
        before = layer
        run = f"experiment-{who}-1"
        if what == "end":
            layer = layer.release(run)
            assert layer.of(run) is None
        else:
            free = size_of(layer.free)
            if layer.of(run) is None and free < places:
                with pytest.raises(LayerError, match="is full"):
                    layer.admit(run, f"e{who}", places / BUCKETS)
            else:
                layer = layer.admit(run, f"e{who}", places / BUCKETS)
                mine = layer.of(run)
                assert mine is not None
                assert size_of(mine.ranges) == places or before.of(run) == mine
        taken = sorted(one for tenant in layer.tenants for one in tenant.ranges)
        assert all(left[1] <= right[0] for left, right in pairwise(taken))
        assert size_of(taken) + size_of(layer.free) == BUCKETS
        for tenant in layer.tenants:
            if tenant.run != run:
                assert before.of(tenant.run) == tenant
        assert Layer.from_json(layer.to_json()) == layer


def test_a_unit_is_in_one_experiment_and_stays_on_its_arm_while_others_come_and_go() -> None:
    layer = Layer("checkout").admit("x", "x", 0.3).admit("y", "y", 0.4)
    x, y = split(layer, "x", 500), split(layer, "y", 500)
    assert not members(x.gate) & members(y.gate)
    arms = {unit: y.assign(unit) for unit in UNITS}
    layer = layer.release("x").admit("z", "z", 0.2).admit("w", "w", 0.4)
    again = Split.from_json(split(layer, "y", 500).to_json())
    assert {unit: again.assign(unit) for unit in UNITS} == arms
    w = layer.of("w")
    assert w is not None
    assert len(w.ranges) == 2  # what x left, and what was free at the end
    each = [members(split(layer, run, 500).gate) for run in "yzw"]
    everybody = {unit for inside in each for unit in inside}
    assert sum(map(len, each)) == len(everybody)
    held = {unit for unit in UNITS if held_out(unit, 500)}
    assert 0.03 * len(UNITS) < len(held) < 0.07 * len(UNITS)
    assert not held & everybody
    assert len(held | everybody) == len(UNITS)  # the layer is full


def test_shares_are_those_that_were_asked_for() -> None:
    layer = Layer("l").admit("x", "x", 0.25)
    gate = split(layer, "x", 1_000).gate
    assert gate is not None
    assert gate.share == pytest.approx(0.225)
    assert 0.19 < len(members(gate)) / len(UNITS) < 0.26


def test_layers_do_not_follow_each_other() -> None:
    one = members(split(Layer("one").admit("x", "x", 0.5), "x").gate)
    two = members(split(Layer("two").admit("x", "x", 0.5), "x").gate)
    both = len(one & two) / len(UNITS)
    assert 0.22 < both < 0.28


def test_who_does_not_take_part_is_on_the_baseline() -> None:
    made = split(Layer("l").admit("x", "x", 0.2), "x")
    inside = members(made.gate)
    assert {made.assign(unit) for unit in UNITS if unit not in inside} == {"a"}
    assert {made.assign(unit) for unit in inside} == {"a", "b"}
    assert made.share("b") == 0.5  # of those that take part
    ended = replace(made.with_weights({"b": 1.0}), gate=None)
    assert {ended.assign(unit) for unit in UNITS} == {"b"}


# -- conflicts ---------------------------------------------------------------------------------


def test_a_full_layer_says_what_is_free_and_who_is_in_it() -> None:
    layer = Layer("checkout").admit("r1", "copy", 0.7)
    with pytest.raises(LayerError, match=r"experiment prices wants 40 %, 30 % is free.*copy"):
        layer.admit("r2", "prices", 0.4)


def test_places_that_others_have_are_refused() -> None:
    layer = Layer("checkout").admit("r1", "copy", 0.3, 0.2)
    assert layer.tenants == (Tenant("r1", "copy", ((2000, 5000),)),)
    with pytest.raises(LayerError, match=r"of which experiment copy has 20 % to 50 %"):
        layer.admit("r2", "prices", 0.2, 0.45)
    with pytest.raises(LayerError, match="beyond its end"):
        layer.admit("r2", "prices", 0.2, 0.9)
    with pytest.raises(LayerError, match="wants no place"):
        layer.admit("r2", "prices", 0.0)
    assert layer.admit("r2", "prices", 0.5, 0.5).free == ((0, 2000),)
    assert layer.admit("r1", "copy", 0.9) is layer  # a try after a crash


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"nonsense",
        b'{"name": "l", "tenants": [["r", "e", [[5, 3]]]]}',
        b'{"name": "l", "tenants": [["r", "e", [[0, 10001]]]]}',
        b'{"name": "l", "tenants": [["r", "e", [[0, 10]]], ["s", "f", [[9, 11]]]]}',
    ],
)
def test_stored_layers_that_make_no_sense(body: bytes) -> None:
    with pytest.raises(LayerError):
        Layer.from_json(body)


def test_stored_gates_that_make_no_sense() -> None:
    made = split(Layer("l").admit("x", "x", 0.2), "x")
    body = json.loads(made.to_json())
    for gate in (3, {}, {"seed": "s", "ranges": [[5, 1]], "holdout": 0},
                 {"seed": "s", "ranges": [[0, 1]], "holdout": -1}):  # fmt: skip
        with pytest.raises(SplitError, match="cannot be read"):
            Split.from_json(json.dumps(body | {"gate": gate}).encode())
