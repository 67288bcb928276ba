"""A testing kit for apps: in memory, with a clock that skips time, mocks of steps, and faults.

    async with Sandbox(app) as sandbox:                     no file, no waiting
        with mock_step(charge, returns="receipt-1") as mock:
            sandbox.crash_at(after="0/charge#1")            the process dies there, and comes back
            run = await sandbox.start(order, "A-17")
            assert await run.result() == "shipped"          two days later, in a millisecond
        assert mock.count == 1

For pytest there is the fixture `sandbox`: `pytest_plugins = ["aura.testing.plugin"]`.
"""

from aura.testing.clock import ManualClock
from aura.testing.mocks import Call, StepMock, mock_step
from aura.testing.recorded import load_histories, replay
from aura.testing.sandbox import Sandbox

__all__ = ["Call", "ManualClock", "Sandbox", "StepMock", "load_histories", "mock_step", "replay"]
