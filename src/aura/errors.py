"""Every error that Aura raises, in one tree.

AuraError
├── ConfigError            settings that cannot work
│   ├── PlanError          a plan file that cannot be followed (with line numbers)
│   ├── SplitError         arms and weights that cannot be laid out
│   │   └── UnknownSplit   there is none of that name
│   ├── RangeError         a range of versions that cannot be read
│   ├── CatalogError       what is declared cannot be kept in the catalog
│   │   └── UnknownVersion  it has no such workflow or version
│   ├── ApplyRefused       files whose changes cannot all be made; none was
│   ├── LayerError         a layer is full, or two experiments want the same part of it
│   └── MissingExtra       an optional dependency is not installed
├── RegistrationError      a workflow or step was declared wrongly
│   └── DuplicateVersion   the same workflow version twice
├── UnknownWorkflow        no such workflow or version here
├── UnknownQueue           no queue of that name
├── UnknownTopic           no topic of that name, or the topic has no such group
├── UnknownWorker          no worker with that id
├── CodecError             a value that cannot be stored or read back
│   ├── InvalidInput       arguments that do not fit the declared types
│   ├── DecryptionFailed   an encrypted value that does not open
│   │   └── KeyMissing     ... because its key is not here
│   └── PayloadTooLarge    a value over the size limit
├── StoreError             the database
│   ├── StoreUnavailable   cannot be reached, is full, locked or read-only (try again)
│   │   ├── TransactionInDoubt  ... and nobody can tell whether a commit took place
│   │   └── ServerUnavailable   the server that a Client asks does not answer
│   ├── TransactionConflict  the database asks to try a transaction again; nothing of it is kept
│   ├── DatabaseMoved      the app was promoted to another one
│   ├── SchemaTooNew       written by a newer Aura
│   ├── SchemaMismatch     a migration differs from the one that was applied
│   └── EpochConflict      someone else changed the document first
├── RunNotFound            no run with that id
├── RunConflict            the id is taken by another input
├── RunEnded               the run takes no more signals or updates
├── RunError               a run that ended without a result
│   ├── RunFailed          the workflow raised
│   ├── RunCancelled       it was cancelled
│   │   └── EffectSuppressed   a shadow run came to an effect that nothing answers
│   ├── RunParked          it waits for a person
│   └── RunMoved           it goes on in another database
├── ResultTimeout          the result is not there yet
├── StepFailed             a step gave up (what workflow code catches)
│   └── StepTimeout        ... because its time was over
├── TransactionError       a transaction that is used as it cannot be
│   └── OtherDatabase      ... because its tables are in another database than Aura's
├── DeadlineExceeded       the run was not done at its deadline (its result is RunFailed)
├── SignalTimeout          no signal came in time (what workflow code catches)
├── UpdateRejected         the workflow refused an update
├── SagaError              a saga that takes no more steps, or cannot go on
│   └── CompensationFailed a finished step could not be compensated
├── NonRetryable           raise it in a step: do not try again
├── NonDeterminism         replay took another path than the journal
├── PoisonRun              a run that its workers die of
├── NoSuchDeadLetter       it was requeued or dropped, or never was one
├── HistoryTooLong         the journal of a run is full (it is parked)
├── BundleError            runs that cannot be exported or imported like that
│   ├── BundleDamaged      a bundle that breaks off, or was changed
│   └── RunsBusy           steps are under way, so their runs were not taken
├── GatewayError           a request that the gateway cannot serve
│   ├── RequestRefused     the client must change it
│   └── TargetFailed       a target gave no usable answer
│       ├── TargetTimeout  ... because its time was over
│       └── BreakerOpen    ... and was not asked, because it has failed too often of late
├── RolloutError           an order that does not fit the rollout's state
│   ├── Incompatible       the candidate cannot stand in for the baseline
│   └── UnknownRollout     there is none of that name
├── ExperimentError        an order that does not fit the experiment's state
│   └── UnknownExperiment  there is none of that name
├── FlowError              a choice among paths that cannot be made as it was asked for
│   └── UnknownFlow        there is none of that name
├── DecommissionError      a target that cannot be taken out of service like that
│   └── UnknownDecommission  nobody takes it out of service
├── AlertFailed            an alert that could not be delivered
├── ScheduleError          an order that does not fit the schedule's state
│   └── UnknownSchedule    there is none of that name
├── TokenError             no such token of the HTTP API, or none like that can be made
├── AccessDenied           the server does not let this token do that
├── SandboxError           the testing kit was used in a way that cannot work
└── DemoFailed             the demo could not go on

Control flow that user code must not swallow derives from BaseException:

ControlFlow(BaseException)
├── LeaseLost              another worker owns the run now
├── BeginAnew              the run goes on with another input and an empty journal
├── TryOver                nobody waits any more for the step that goes on in a thread
└── Suspended              the run leaves memory until it is woken
"""

from __future__ import annotations


class AuraError(Exception):
    """Base of all errors. `hint` says what to do about it and ends the message."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint[:1].upper() + hint[1:]  # it stands after a full stop
        super().__init__(f"{message.rstrip('.')}. {self.hint}" if hint else message)


class ConfigError(AuraError):
    """Settings that cannot work."""


class PlanError(ConfigError):
    """A plan that cannot be followed; the message names the file and the line."""


class SplitError(ConfigError):
    """Arms, weights or a stored split that cannot be laid out."""


class UnknownSplit(SplitError):
    """There is no split of that name."""


class LayerError(ConfigError):
    """A layer of experiments is full, or two of them want the same part of it."""


class RangeError(ConfigError):
    """A range of versions that cannot be read."""


class CatalogError(ConfigError):
    """What is declared or asked for does not fit the catalog."""


class UnknownVersion(CatalogError):
    """The catalog has no such workflow, or no such version of it."""


class ApplyRefused(ConfigError):
    """Files were not applied, because some of their changes are refused. Nothing was written."""


class MissingExtra(ConfigError):
    """An optional dependency is not installed."""


class RegistrationError(AuraError):
    """A workflow or step was declared wrongly."""


class DuplicateVersion(RegistrationError):
    """The same version of one workflow was registered twice with different code."""


class UnknownWorkflow(AuraError):
    """No workflow of that name, or no such version of it."""


class UnknownQueue(AuraError):
    """No queue of that name, here or in the database."""


class UnknownTopic(AuraError):
    """There is no topic of that name, or the topic has no group of that name."""


class UnknownWorker(AuraError):
    """There is no worker with that id, or it has been gone for a day."""


class CodecError(AuraError):
    """A value that cannot be stored, or stored bytes that cannot be read back."""


class InvalidInput(CodecError):
    """Arguments that do not fit the declared types."""


class DecryptionFailed(CodecError):
    """An encrypted value that does not open; it is kept as it is. `key_id` is its key's."""

    def __init__(self, message: str, *, key_id: str, hint: str = "") -> None:
        self.key_id = key_id
        super().__init__(message, hint=hint)


class KeyMissing(DecryptionFailed):
    """A value is encrypted with a key that this process does not have."""


class PayloadTooLarge(CodecError):
    """A value over the size limit."""


class StoreError(AuraError):
    """Something is wrong with the database."""


class StoreUnavailable(StoreError):
    """The database cannot be reached or written at the moment."""


class TransactionInDoubt(StoreUnavailable):
    """The connection broke while a transaction was committed, and whether it was is not known."""


class ServerUnavailable(StoreUnavailable):
    """The server that a Client asks cannot be reached, or does not answer. What was asked for may
    have been done, unless the message says that it was not."""


class TransactionConflict(StoreError):
    """The database asks to try a transaction again; nothing of it is kept."""


class DatabaseMoved(StoreError):
    """The app of this database was promoted to another one, and goes on there."""


class SchemaTooNew(StoreError):
    """The database was migrated by a newer Aura than this one."""


class SchemaMismatch(StoreError):
    """An applied migration differs from the one that this Aura carries."""


class EpochConflict(StoreError):
    """Someone else changed the document first."""


class RunNotFound(AuraError):
    """No run with that id."""


class RunConflict(AuraError):
    """The id belongs to a run of another workflow or with another input."""


class RunEnded(AuraError):
    """The run has ended, so a signal or update to it was not stored."""


class RunError(AuraError):
    """A run that ended without a result."""

    def __init__(self, message: str, *, run_id: str, hint: str = "") -> None:
        self.run_id = run_id
        super().__init__(message, hint=hint)


class RunFailed(RunError):
    """The workflow raised. `type` is the exception's name, `traceback` its text."""

    def __init__(self, message: str, *, run_id: str, type: str, traceback: str = "") -> None:
        self.type = type
        self.traceback = traceback
        super().__init__(message, run_id=run_id)


class RunCancelled(RunError):
    """The run was cancelled before it finished."""


class EffectSuppressed(RunCancelled):
    """A shadow run came to an effect that neither its baseline nor a stub answers, and ended there.
    That is no failure of its code."""


class RunParked(RunError):
    """The run cannot go on by itself; its journal and input are kept."""


class RunMoved(RunError):
    """The run was moved: it goes on in another database, and takes nothing here."""


class ResultTimeout(AuraError, TimeoutError):
    """The run has no result yet; it goes on."""


class StepFailed(AuraError):
    """A step gave up. The same error is raised live and on replay.

    `step` is the step's name, `type` the original exception's name, `reason` its message,
    `traceback` its text, `attempts` how often it was tried.
    """

    def __init__(
        self, step: str, *, type: str, reason: str, traceback: str = "", attempts: int = 1
    ) -> None:
        self.step = step
        self.type = type
        self.reason = reason
        self.traceback = traceback
        self.attempts = attempts
        tries = "" if attempts == 1 else f" after {attempts} attempts"
        super().__init__(f"step {step} failed{tries}: {type}: {reason}")


class StepTimeout(StepFailed):
    """A step did not finish in its time."""


class TransactionError(AuraError):
    """A transaction that is used as it cannot be; nothing of it is kept, nor is it tried again."""


class OtherDatabase(TransactionError):
    """A transactional step wants another database than the one that has its run's journal."""


class DeadlineExceeded(AuraError, TimeoutError):
    """The run was not done at its deadline. Its code is cancelled where it waits, and the run fails
    with this, so that callers get RunFailed."""


class SignalTimeout(AuraError, TimeoutError):
    """No signal came in time. The same error is raised live and on replay."""


class UpdateRejected(AuraError):
    """The workflow refused an update; the message says why. It changed nothing."""


class SagaError(AuraError):
    """A saga that takes no more steps, or that cannot go on after its pivot."""


class CompensationFailed(SagaError):
    """Compensations gave up; the run is parked. The message names those that are done, those that
    failed and those that wait for them."""


class NonRetryable(AuraError):
    """Raise this inside a step (from the cause) to give up at once."""


class NonDeterminism(AuraError):
    """Replay took another path than the journal; the run is parked with both sides."""


class PoisonRun(AuraError):
    """Worker after worker died while it executed the run; the run is parked."""


class NoSuchDeadLetter(AuraError):
    """There is no dead letter of that name: it was requeued or dropped, or never was one."""


class BundleError(AuraError):
    """Runs that cannot be exported or imported like that; the message says what is in the way."""


class BundleDamaged(BundleError):
    """A bundle that breaks off, was changed, or is none. Nothing of it was imported."""


class RunsBusy(BundleError):
    """Steps with an effect are under way: their runs were not taken, so that no step runs twice."""


class HistoryTooLong(AuraError):
    """The journal of a run has as many entries or bytes as it may have; the run is parked."""


class GatewayError(AuraError):
    """A request that the gateway cannot serve."""


class RequestRefused(GatewayError):
    """The client must change its request. `status` and `code` go into the problem document;
    `field` is the path of the part that is wrong, when there is one."""

    def __init__(
        self, message: str, *, status: int, code: str, field: str = "", hint: str = ""
    ) -> None:
        self.status = status
        self.code = code
        self.field = field
        super().__init__(message, hint=hint)


class TargetFailed(GatewayError):
    """A target gave no usable answer. `code` says how it failed, `run` which run it was."""

    def __init__(self, message: str, *, code: str, run: str = "", hint: str = "") -> None:
        self.code = code
        self.run = run
        super().__init__(message, hint=hint)


class TargetTimeout(TargetFailed):
    """A target did not answer in its time."""


class BreakerOpen(TargetFailed):
    """It was not asked: it has failed too often of late. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float, hint: str = "") -> None:
        self.retry_after = retry_after
        super().__init__(message, code="breaker-open", hint=hint)


class RolloutError(AuraError):
    """An order that does not fit the state of the rollout."""


class UnknownRollout(RolloutError):
    """There is no rollout of that name."""


class ExperimentError(AuraError):
    """An order or observation does not fit the experiment."""


class UnknownExperiment(ExperimentError):
    """There is no experiment of that name."""


class Incompatible(RolloutError):
    """The candidate cannot stand in for the baseline; `reasons` name the fields."""

    def __init__(self, message: str, *, reasons: tuple[str, ...], hint: str = "") -> None:
        self.reasons = reasons
        super().__init__(message, hint=hint)


class FlowError(AuraError):
    """A choice among paths, or what is learnt from it, cannot be as it was asked for."""


class UnknownFlow(FlowError):
    """No choice, or no learning split, has that name."""


class DecommissionError(AuraError):
    """A target that cannot be taken out of service like that, or brought back any more."""


class UnknownDecommission(DecommissionError):
    """Nobody is taking that target out of service, or has."""


class AlertFailed(AuraError):
    """An alert could not be delivered; the message names the channel, never its secrets."""


class ScheduleError(AuraError):
    """An order does not fit the schedule. Nothing was changed."""


class UnknownSchedule(ScheduleError):
    """There is no schedule of that name."""


class TokenError(AuraError):
    """There is no such token of the HTTP API, or none can be made like that."""


class AccessDenied(AuraError):
    """The server does not let the caller do that: the token is missing, wrong, has ended, or is for
    other things. `code` is the server's word for it."""

    def __init__(self, message: str, *, code: str = "access-denied", hint: str = "") -> None:
        self.code = code
        super().__init__(message, hint=hint)


class SandboxError(AuraError):
    """The testing kit (`aura.testing`) was used in a way that cannot work."""


class DemoFailed(AuraError):
    """The demo could not go on; the message says in which process and shows the end of its log."""


class ControlFlow(BaseException):
    """Not errors: the engine takes a run out of user code's hands."""


class LeaseLost(ControlFlow):
    """Another worker owns the run now; nothing more of it may be written here."""


class BeginAnew(ControlFlow):
    """The workflow ends this execution of its run; the next one gets `input` (as it is stored)."""

    def __init__(self, input: bytes, version: str) -> None:
        self.input = input
        self.version = version
        super().__init__(f"begins anew with version {version}")


class TryOver(ControlFlow):
    """Nobody waits for this try of a step any more: it was cancelled, or its time was over."""


class Suspended(ControlFlow):
    """The run leaves memory until a timer or signal wakes it."""
