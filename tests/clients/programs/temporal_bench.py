"""Plays the server's part for one Temporal workflow, run by the Python of the temporal client's place.

The workflow runs in the sandbox of `temporalio`'s own worker, its activities in `temporalio`'s `ActivityEnvironment`;
time is skipped. Temporal's own test server is no package of a registry. What is played here: activities are retried as
their policy says, and the answer of the attempts named in `lost` is lost, as when a worker dies before it reports.

    python temporal_bench.py PROGRAM '{"id": ..., "arguments": [...], "lost": [...]}'

Prints a JSON line for each attempt of an activity and for each wait, and reads a line of JSON after a wait:
`{"signal": NAME}`, or `{}` to let the time pass.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import temporalio.api.common.v1 as common
import temporalio.api.failure.v1 as failures
import temporalio.bridge.proto.workflow_activation as activation
import temporalio.workflow
from temporalio.bridge.proto import activity_result
from temporalio.common import Priority, RetryPolicy, TypedSearchAttributes
from temporalio.converter import DefaultFailureConverter, DefaultPayloadConverter
from temporalio.exceptions import ActivityError, ApplicationError, RetryState
from temporalio.testing import ActivityEnvironment
from temporalio.worker import WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

START = datetime(2026, 1, 1, tzinfo=UTC)
CONVERTER = DefaultPayloadConverter()


def told(**line: Any) -> None:
    print(json.dumps(line), flush=True)


class Bench:
    """One workflow execution, from its start to its end."""

    def __init__(self, workflow: type, activities: list[Callable[..., Any]], given: dict[str, Any]) -> None:
        self._given = given
        self._now = START
        self._ran: dict[str, int] = {}
        self._activities = {
            temporalio.activity._Definition.must_from_callable(one).name: one for one in activities
        }
        self._definition = temporalio.workflow._Definition.must_from_class(workflow)
        runner = SandboxedWorkflowRunner()
        runner.prepare_workflow(self._definition)
        self._instance = runner.create_instance(self._details())
        self._timers: dict[int, datetime] = {}

    async def run(self) -> None:
        arguments = CONVERTER.to_payloads(self._given["arguments"])
        name = str(self._definition.name)
        init = activation.InitializeWorkflow(
            workflow_type=name, workflow_id=self._given["id"], arguments=arguments, randomness_seed=1
        )
        jobs = [activation.WorkflowActivationJob(initialize_workflow=init)]
        while jobs:
            jobs = await self._obeyed(await asyncio.to_thread(self._activate, jobs))

    def _activate(self, jobs: list[Any]) -> list[Any]:
        act = activation.WorkflowActivation(run_id="run-1", jobs=jobs, history_length=3)
        act.timestamp.FromDatetime(self._now)
        completion = self._instance.activate(act)
        if completion.HasField("failed"):
            raise SystemExit(str(completion.failed))
        return list(completion.successful.commands)

    async def _obeyed(self, commands: list[Any]) -> list[Any]:
        """What happens next because of `commands`; nothing when the workflow has ended."""
        jobs: list[Any] = []
        for command in commands:
            if command.HasField("complete_workflow_execution"):
                told(ended=CONVERTER.from_payload(command.complete_workflow_execution.result))
                return []
            if command.HasField("fail_workflow_execution"):
                told(failed=command.fail_workflow_execution.failure.cause.message)
                return []
            if command.HasField("start_timer"):
                timer = command.start_timer
                self._timers[timer.seq] = self._now + timer.start_to_fire_timeout.ToTimedelta()
            elif command.HasField("cancel_timer"):
                self._timers.pop(command.cancel_timer.seq, None)
            elif command.HasField("schedule_activity"):
                jobs.append(await self._resolved(command.schedule_activity))
            else:
                raise SystemExit(f"the bench does not know this command: {command}")
        return jobs or [self._waited()]

    def _waited(self) -> Any:
        """The workflow waits: for a signal that the test sends now, or for its next timer."""
        told(waits=(min(self._timers.values()) - self._now).total_seconds())
        if (said := json.loads(sys.stdin.readline())).get("signal"):
            signal = activation.SignalWorkflow(signal_name=said["signal"])
            return activation.WorkflowActivationJob(signal_workflow=signal)
        seq, self._now = min(self._timers.items(), key=lambda item: item[1])
        del self._timers[seq]
        return activation.WorkflowActivationJob(fire_timer=activation.FireTimer(seq=seq))

    async def _resolved(self, scheduled: Any) -> Any:
        result = activity_result.ActivityResolution()
        try:
            result.completed.result.CopyFrom(await self._attempted(scheduled))
        except ApplicationError as error:
            cause = ActivityError(
                "Activity task failed",
                scheduled_event_id=1,
                started_event_id=2,
                identity="bench",
                activity_type=scheduled.activity_type,
                activity_id=scheduled.activity_id,
                retry_state=RetryState.NON_RETRYABLE_FAILURE,
            )
            cause.__cause__ = error
            failure = failures.Failure()
            DefaultFailureConverter().to_failure(cause, CONVERTER, failure)
            result.failed.failure.CopyFrom(failure)
        resolved = activation.ResolveActivity(seq=scheduled.seq, result=result)
        return activation.WorkflowActivationJob(resolve_activity=resolved)

    async def _attempted(self, scheduled: Any) -> common.Payload:
        """The result of the activity, after as many attempts as its policy allows."""
        policy = RetryPolicy.from_proto(scheduled.retry_policy)
        run = self._activities[scheduled.activity_type]
        definition = temporalio.activity._Definition.must_from_callable(run)
        attempt = 0
        while True:
            attempt += 1
            environment = ActivityEnvironment()
            environment.info = dataclasses.replace(
                environment.info,
                activity_id=scheduled.activity_id,
                activity_type=scheduled.activity_type,
                workflow_id=self._given["id"],
                attempt=attempt,
            )
            arguments = CONVERTER.from_payloads(list(scheduled.arguments), definition.arg_types)
            try:
                result = await environment.run(run, *arguments)
            except ApplicationError as error:
                told(activity=scheduled.activity_id, attempt=attempt, error=error.type, text=error.message)
                if error.non_retryable or attempt == policy.maximum_attempts:
                    raise
                self._now += error.next_retry_delay or policy.initial_interval
                continue
            lost = [scheduled.activity_id, attempt] in self._given["lost"]
            told(activity=scheduled.activity_id, attempt=attempt, result=result, lost=lost)
            if not lost:
                return CONVERTER.to_payload(result)

    def _details(self) -> WorkflowInstanceDetails:
        info = temporalio.workflow.Info(
            attempt=1,
            continued_run_id=None,
            cron_schedule=None,
            execution_timeout=None,
            first_execution_run_id="run-1",
            headers={},
            namespace="default",
            original_execution_run_id="run-1",
            parent=None,
            root=None,
            priority=Priority.default,
            raw_memo={},
            retry_policy=None,
            run_id="run-1",
            run_timeout=None,
            search_attributes={},
            start_time=START,
            workflow_start_time=START,
            task_queue="refunds",
            task_timeout=timedelta(seconds=10),
            typed_search_attributes=TypedSearchAttributes.empty,
            workflow_id=self._given["id"],
            workflow_type=str(self._definition.name),
        )
        return WorkflowInstanceDetails(
            payload_converter_factory=DefaultPayloadConverter,
            failure_converter_class=DefaultFailureConverter,
            interceptor_classes=[],
            defn=self._definition,
            info=info,
            randomness_seed=1,
            extern_functions={"__temporal_get_metric_meter": lambda: None},
            disable_eager_activity_execution=False,
            worker_level_failure_exception_types=[],
            patch_activation_callback=None,
            last_completion_result=common.Payloads(),
            last_failure=None,
        )


async def main() -> None:
    path = Path(sys.argv[1])
    sys.path.insert(0, str(path.parent))  # the sandbox imports it again, by its name
    program = importlib.import_module(path.stem)
    await Bench(program.Refund, [program.governed_call], json.loads(sys.argv[2])).run()


if __name__ == "__main__":
    asyncio.run(main())
