"""Accounts that transactional steps change, and commits that fail."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from aura import Aura
from aura.engine import Transaction
from aura.store.session import Written
from tests.engine.kit import World


@dataclass
class Bank:
    """Accounts in the database of a test; statements are written with `?`."""

    world: World
    ran: list[str] = field(default_factory=list)

    def sql(self, text: str) -> str:
        if not self.world.database.startswith("postgresql"):
            return text
        first, *rest = text.split("?")
        return first + "".join(f"${at}{part}" for at, part in enumerate(rest, 1))

    async def open(self, app: Aura) -> None:
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE IF NOT EXISTS accounts (id TEXT, cents BIGINT)")
            await tx.execute("INSERT INTO accounts VALUES ('ada', 100)")

    async def add(self, tx: Transaction, cents: int) -> int:
        self.ran.append(f"add {cents}")
        await tx.execute(self.sql("UPDATE accounts SET cents = cents + ?"), cents)
        return int(await tx.fetchval("SELECT cents FROM accounts"))

    async def balance(self, app: Aura) -> int:
        async with app.transaction() as tx:
            return int(await tx.fetchval("SELECT cents FROM accounts"))


async def opened(bank: Bank, *workflows: Any, **settings: Any) -> Aura:
    app = await bank.world.open(*workflows, **settings)
    await bank.open(app)
    return app


def kinds(journal: list[Any]) -> list[tuple[int, str, str]]:
    return [(one.seq, one.key, one.kind) for one in journal]


class Faulty:
    """A session whose first commits fail in some way, before or after they took place."""

    def __init__(self, app: Aura, *faults: Exception | BaseException, after: bool = False) -> None:
        self.faults = list(faults)
        self.commits = 0
        make = app._worker._services.session  # type: ignore[union-attr]
        worker = app._worker
        assert worker is not None
        worker._services = replace(worker._services, session=self._wrap(make, after))

    def _wrap(self, make: Any, after: bool) -> Any:
        def session(isolation: Any) -> Any:
            made = make(isolation)
            commit, rollback = made.commit, made.rollback

            async def fail(appends: list[Written]) -> None:
                self.commits += 1
                if not self.faults:
                    await commit(appends)
                    return
                if after:
                    await commit(appends)
                else:
                    await rollback()
                raise self.faults.pop(0)

            made.commit = fail
            return made

        return session
