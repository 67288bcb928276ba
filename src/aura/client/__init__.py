"""Aura over HTTP: the client of a server, with the verbs of an app in this process."""

from aura.client.client import Client
from aura.client.live import Changed, News
from aura.client.runs import RemoteRun
from aura.client.shared import App, RunFacts, RunHandle
from aura.client.values import BulkOutcome, BulkResult, ErrorInfo, RunInfo, RunPage
from aura.client.values_delivery import ArmInfo, FlowInfo, LearningInfo

__all__ = [
    "App",
    "ArmInfo",
    "BulkOutcome",
    "BulkResult",
    "Changed",
    "Client",
    "ErrorInfo",
    "FlowInfo",
    "LearningInfo",
    "News",
    "RemoteRun",
    "RunFacts",
    "RunHandle",
    "RunInfo",
    "RunPage",
]
