"""How commands end: their exit codes, which are kept."""

from __future__ import annotations

DONE, NOT_WELL, MISUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

EXITS = {
    DONE: "It is done, or what was waited for went well.",
    NOT_WELL: "An error, said in one paragraph on stderr; or what was watched or checked did not "
    "go well: a run failed, a rollout was rolled back, doctor found a problem, a replay diverged.",
    MISUSED: "The command line itself is wrong: nothing was done.",
    INTERRUPTED: "Stopped by Ctrl-C (SIGINT). A run that was waited for goes on elsewhere.",
    TERMINATED: "Stopped by SIGTERM, while a run was waited for. Servers, workers and what only "
    "watches end with 0 when they are told to stop.",
}
"""With --json an error is on stdout, too: {"error": {"type", "message", "hint", "run"}}."""
