"""An app in which nothing has happened yet."""

from __future__ import annotations

from aura import Aura, Config

app = Aura("new", config=Config(grace=0.5))
