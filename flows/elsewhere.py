"""Models' nights on other machines: Prefect's work pools and its Dask and Ray task runners.

Only four plain values go there, and nothing comes back: the outcome is on record in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled
from prefect.task_runners import TaskRunner

from corrigenda.config import Scale
from corrigenda.errors import SetupError
from corrigenda.pipeline import diary, elsewhere
from corrigenda.pipeline.diary import Outcome
from corrigenda.pipeline.night import Night
from corrigenda.tasks.despite import answers
from corrigenda.tasks.stages import PLAIN

Work = Callable[[Night], Outcome]
POLL_S = 2.0
SETTLE_S = 30.0


@contextmanager
def engine(scale: Scale, here: Work) -> Iterator[Work]:
    """How a model's night is done as `[scale]` says; `here` is how it is done in this process."""
    if scale.engine == "here":
        yield here
    elif scale.engine == "processes":
        yield elsewhere.in_process
    elif scale.engine == "work-pool":
        yield lambda night: in_work_pool(night, scale)
    else:
        with task_runner(scale) as runner:
            yield lambda night: in_task_runner(night, runner)


@task(name="one-model", task_run_name="{model}", **PLAIN)
def one_model(config: str, model: str, run_id: str, layouts: list[Any]) -> None:
    elsewhere.alone(config, model, run_id, layouts)


def in_task_runner(night: Night, runner: TaskRunner[Any]) -> Outcome:
    """The night as a task of a cluster. Raises LostNightError when its worker died."""
    names = ("config", "model", "run_id", "layouts")
    values = dict(zip(names, elsewhere.arguments(night), strict=True))
    future = runner.submit(one_model, parameters=values)
    future.wait()
    return elsewhere.on_record(night, f"its task is {future.state.name}")


@contextmanager
def task_runner(scale: Scale) -> Iterator[TaskRunner[Any]]:
    """The cluster at `address`, or a local one of `at_once` workers. Raises SetupError."""
    try:
        if scale.engine == "dask":
            from prefect_dask import DaskTaskRunner

            local = {"n_workers": scale.at_once, "threads_per_worker": 1}
            made = DaskTaskRunner(address=scale.address, cluster_kwargs=None if scale.address else local)
        else:
            from prefect_ray import RayTaskRunner

            made = RayTaskRunner(address=scale.address)
    except ImportError as fault:
        raise SetupError(
            f"the engine {scale.engine!r} is not installed here",
            remedy=f"Run `pip install prefect-{scale.engine}`, here and on the cluster",
            missing=fault.name,
        ) from None
    with made:
        yield made


def in_work_pool(night: Night, scale: Scale) -> Outcome:
    """The night as a run of the per-model deployment, on whatever pool that stands.

    An API that is away is waited for: the same night is never asked for twice. Raises LostNightError when the
    run ends without a record, or has none after `limit_hours`; SetupError when there is no such deployment.
    """
    name = night.entry.deployment or scale.deployment
    limit = time.monotonic() + 3600 * scale.limit_hours
    run = _patiently(limit, lambda: _asked_for(night, name))
    ended: float | None = None
    while (came := diary.read(night.store, night.fleet.run_id, night.name)) is None:
        state = _patiently(limit, lambda: _state(run))
        if state is not None and state.is_final():
            ended = ended or time.monotonic()
        if time.monotonic() > limit or (ended and time.monotonic() - ended > SETTLE_S):
            return elsewhere.on_record(night, f"its run {run} is {state.name if state else 'unknown'}")
        time.sleep(POLL_S)
    return came


def _asked_for(night: Night, deployment: str) -> Any:
    _, model, run_id, layouts = elsewhere.arguments(night)
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            raise SetupError(
                "there is no such deployment",
                remedy="Deploy `deployments/prefect.yaml`, or name yours in `scale.deployment`",
                deployment=deployment,
            ) from None
        return client.create_flow_run_from_deployment(
            found.id,
            parameters={"model": model, "run_id": run_id, "layouts": layouts},
            state=Scheduled(),
            idempotency_key=f"{run_id}-{model}",
        ).id


def _state(run: Any) -> State | None:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run).state


def _patiently(limit: float, ask: Callable[[], Any]) -> Any:
    """The answer, once the API gives one; its own errors are waited out until `limit`."""
    while True:
        try:
            return ask()
        except SetupError:
            raise
        except Exception:
            if time.monotonic() > limit:
                raise
            while not answers() and time.monotonic() < limit:
                time.sleep(POLL_S)
            time.sleep(POLL_S)
