"""The app that the tests of the dashboard serve."""

from __future__ import annotations

import asyncio
from typing import Any

import aura
from aura import Aura, Config, Retry, step

app = Aura("research", config=Config(grace=0.5))


@step(idempotent=True)
async def extract(text: str) -> dict[str, Any]:
    return {"words": len(text.split()), "text": text}


@step(retries=3)
async def charge(account: str, cents: int) -> dict[str, Any]:
    return {"account": account, "cents": cents}


@step(idempotent=True)
async def refund(account: str, cents: int) -> None:
    return None


@step(retries=Retry(1, first=0.01))
async def unreliable(text: str) -> str:
    raise ConnectionError(f"nobody answers about {text}")


@step(idempotent=True)
async def page_of(number: int) -> int:
    return number


@step(idempotent=True)
async def long_text(size: int) -> str:
    return "lorem ipsum " * (size // 12)


@app.workflow(version="1.0.0")
async def research(text: str, branches: int = 3) -> dict[str, Any]:
    """A few branches with two steps each."""
    facts = await extract(text)

    async def branch(number: int) -> int:
        paid = await charge(f"account-{number}", 100 * number)
        await extract(f"{text} {number}")
        return int(paid["cents"])

    paid = await asyncio.gather(*(branch(number) for number in range(branches)))
    return {"words": facts["words"], "cents": sum(paid)}


@app.workflow(version="1.1.0", name="research")
async def research_11(text: str, branches: int = 3) -> dict[str, Any]:
    found: dict[str, Any] = await extract(text)
    return found


@app.workflow(version="1.0.0")
async def broken(text: str) -> str:
    """Fails after two tries of its step."""
    await extract(text)
    return await unreliable(text)


@app.workflow(version="1.0.0")
async def approval(text: str) -> Any:
    """Waits for a person, and says meanwhile what it does."""
    aura.set_state("phase", "asking")
    pen = aura.stream("progress")
    pen.write({"draft": text})
    answer = await aura.receive("approval")
    pen.write("answered")
    return answer


@app.workflow(version="1.0.0")
async def family(names: list[str]) -> list[Any]:
    """Starts a child for each name, and waits for them."""
    return list(await asyncio.gather(*(research(name) for name in names)))


@app.workflow(version="1.0.0")
async def pages(count: int) -> int:
    """So many steps in ten lanes."""

    async def lane(number: int) -> int:
        return sum([await page_of(one) for one in range(number, count, 10)])

    return sum(await asyncio.gather(*(lane(number) for number in range(10))))


@app.workflow(version="1.0.0")
async def letter(size: int) -> int:
    """Has an entry of so many bytes in its journal."""
    return len(await long_text(size))


@step(idempotent=True)
async def keeps(cookie: str) -> dict[str, str]:
    return {"cookie": cookie}


@app.workflow(version="1.0.0")
async def masked(text: str, cookie: str) -> str:
    """Has something secret in its journal."""
    await keeps(cookie)
    return text
