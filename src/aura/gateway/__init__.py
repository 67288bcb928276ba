"""HTTP in front of targets: the gateway that clients keep talking to while what runs changes.

config = parse_gateway(text, file="aura.yaml")
holders = build_holders(config)
gateway = Gateway(
    config,
    targets=build_targets(config, runner=app, clock=clock),
    splits=holders,
    observe=observations.append,
    clock=clock,
)
uvicorn.Server(server_config(gateway, port=8080)).run()
"""

from aura.delivery.holder import SplitHolder
from aura.gateway.adapters import Adapter, PlainAdapter, RunInfo, WorkflowRunner, WorkflowTarget
from aura.gateway.build import build_holders, build_targets, server_config
from aura.gateway.config import (
    GatewayConfig,
    HttpSpec,
    Route,
    WorkflowSpec,
    gateway_config,
    load_gateway,
    missing_targets,
    parse_gateway,
)
from aura.gateway.diff import Difference, Rules, diff_json
from aura.gateway.http_target import HttpTarget
from aura.gateway.proxy import Counters, Gateway
from aura.gateway.targets import Answer, Request, Target

__all__ = [
    "Gateway",
    "Counters",
    "GatewayConfig",
    "Route",
    "HttpSpec",
    "WorkflowSpec",
    "load_gateway",
    "parse_gateway",
    "missing_targets",
    "gateway_config",
    "build_targets",
    "build_holders",
    "server_config",
    "SplitHolder",
    "Target",
    "Request",
    "Answer",
    "HttpTarget",
    "WorkflowTarget",
    "WorkflowRunner",
    "Adapter",
    "PlainAdapter",
    "RunInfo",
    "diff_json",
    "Difference",
    "Rules",
]
