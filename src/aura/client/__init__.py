"""Aura over HTTP: the client of a server, with the verbs of an app in this process."""

from aura.client.client import Client
from aura.client.runs import RemoteRun
from aura.client.shared import App, RunFacts, RunHandle
from aura.client.values import BulkOutcome, BulkResult, ErrorInfo, RunInfo, RunPage

__all__ = [
    "App",
    "BulkOutcome",
    "BulkResult",
    "Client",
    "ErrorInfo",
    "RemoteRun",
    "RunFacts",
    "RunHandle",
    "RunInfo",
    "RunPage",
]
