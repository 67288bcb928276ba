"""The app that the compose file serves. Put your own in its place."""

from aura import Aura, step

app = Aura("research")


@step(retries=3)
async def extract(text: str) -> int:
    return len(text.split())


@app.workflow(version="1.0.0")
async def research(text: str) -> int:
    return await extract(text)
