"""LangGraph: a chain, a loop and a fan-out of no-op nodes with durability="sync".

SQLite through `AsyncSqliteSaver` (WAL, synchronous=FULL); PostgreSQL through `AsyncPostgresSaver`
over a pool of ten connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

from common import (
    STEPS_PER_WORKFLOW,
    Meter,
    Options,
    keep_busy,
    leave,
    once,
    options,
    own_database,
    report,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool


class State(TypedDict):
    run: str
    count: Annotated[int, operator.add]


def chain(meter: Meter) -> StateGraph:
    async def node(state: State) -> dict[str, Any]:
        meter.step(state["run"])
        return {"count": 1}

    graph = StateGraph(State)
    names = [f"step{n}" for n in range(STEPS_PER_WORKFLOW)]
    for name in names:
        graph.add_node(name, node)
    for one, two in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(one, two)
    return graph


def loop(meter: Meter, size: int) -> StateGraph:
    async def node(state: State) -> dict[str, Any]:
        meter.step(state["run"])
        return {"count": 1}

    graph = StateGraph(State)
    graph.add_node("step", node)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: END if state["count"] >= size else "step")
    return graph


def fanout(meter: Meter, size: int) -> StateGraph:
    async def node(state: State) -> dict[str, Any]:
        meter.step(state["run"])
        return {"count": 1}

    graph = StateGraph(State)
    graph.add_node("step", node)
    graph.add_conditional_edges(
        START, lambda state: [Send("step", {"run": state["run"], "count": 0}) for _ in range(size)]
    )
    graph.add_edge("step", END)
    return graph


@contextlib.asynccontextmanager
async def saver(database: str, is_postgres: bool) -> AsyncIterator[Any]:
    if not is_postgres:
        async with AsyncSqliteSaver.from_conn_string(database) as checkpointer:
            await checkpointer.setup()
            yield checkpointer
        return
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(database, min_size=1, max_size=10, kwargs=settings) as pool:
        checkpointer = AsyncPostgresSaver(pool)
        await checkpointer.setup()
        yield checkpointer


async def measure(given: Options, database: str, meter: Meter) -> float:
    builders = {
        "workflows": lambda: chain(meter),
        "sequential": lambda: loop(meter, given.size),
        "fanout": lambda: fanout(meter, given.size),
    }
    async with saver(database, given.is_postgres) as checkpointer:
        graph = builders[given.kind]().compile(checkpointer=checkpointer)

        async def run_one(run: str) -> None:
            config = {"configurable": {"thread_id": run}, "recursion_limit": given.size + 100}
            await graph.ainvoke({"run": run, "count": 0}, config, durability="sync")

        if given.kind == "workflows":
            return await keep_busy(given, meter, run_one)
        return await once(given, meter, run_one)


def main() -> None:
    given, meter = options(), Meter()
    with own_database(given, "langgraph") as database:
        seconds = asyncio.run(measure(given, database, meter))
        report("langgraph", given, meter, seconds, "langgraph")
    leave()


if __name__ == "__main__":
    main()
