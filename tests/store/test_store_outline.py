"""Long journals are drawn from their lines, and read where one looks."""

from __future__ import annotations

from aura.store.base import Append, Entry, Store
from tests.store.kit import append, entry, start


async def test_lines_have_all_but_what_is_in_the_entries(store: Store) -> None:
    await store.commit([start("r", owner="w")])
    failed = Entry("r", 2, "0/b#1", "attempt", "shape", None, None, b'{"type": "E"}', 3, 1.5, 2.5)
    await store.commit([append("r", 1), Append(1, failed), append("r", 3, key="0/b#1")])
    found = await store.outline("r", 0, 10)
    assert [tuple(one) for one in found] == [
        (1, "0/extract#1", "step", "shape", 1, 10.5, 11.25, False, 2, 1),
        (2, "0/b#1", "attempt", "shape", 3, 1.5, 2.5, True, None, None),
        (3, "0/b#1", "step", "shape", 1, 10.5, 11.25, False, 2, 1),
    ]
    assert found[0].failed is False
    assert await store.outline("r", 1, 1) == found[1:2]
    assert await store.outline("r", 3, 10) == []
    assert await store.outline("nobody", 0, 10) == []


async def test_entries_are_read_by_their_keys(store: Store) -> None:
    await store.commit([start("r", owner="w"), start("other", owner="w")])
    await store.commit([append("r", 1), append("r", 2, key="0/b#1"), append("r", 3, key="0/b#1/x")])
    await store.commit([append("other", 1, key="0/b#1")])
    assert [one.seq for one in await store.entries_of("r", ["0/b#1/x", "0/b#1"])] == [2, 3]
    assert await store.entries_of("r", ["0/b#1"]) == [entry("r", 2, key="0/b#1")]
    assert await store.entries_of("r", []) == []
    assert await store.entries_of("nobody", ["0/b#1"]) == []
