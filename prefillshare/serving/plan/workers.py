"""The processes of a deployment that hold weights, and what each of them is.

This one description is what memory, GPUs, commands, the router's settings and `prefillshare ps` are made of.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule
from prefillshare.observe.document import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What a process holds: an engine with everything or one module, a prefill worker, or a decode worker."""

    name: str
    """What people call it, such as engine, prefill-0 or decode-math-1."""
    role: Role
    """What it does in its deployment."""
    model: str
    """Name of the weights that it loads."""
    checkpoint: Path
    """The directory of these weights."""
    adapters: tuple[ResolvedModule, ...] = ()
    """Decode modules that it serves as adapters on top of them."""
    module: str | None = None
    """The one decode module that a worker of a disaggregated deployment serves; None for a prefill worker."""

    @property
    def serves_whole_calls(self) -> bool:
        """Whether it is an engine behind a router: its module computes its prompts itself, so there is no hand-off."""
        return self.role == "engine" and self.module is not None


def workers_of(deployment: ResolvedDeployment) -> tuple[Worker, ...]:
    """Return every worker in the order of the start: the engine, or the prefill pool and then the decode modules."""
    if deployment.config.topology == "colocated":
        return (engine_of(deployment),)
    prefill = [prefill_worker(deployment, f"prefill-{number}") for number in range(deployment.config.prefill.workers)]
    decode = [
        decode_worker(deployment, module, f"decode-{module.spec.name}-{number}")
        for module in deployment.modules
        for number in range(module.spec.replicas)
    ]
    return (*prefill, *decode)


def narrow(deployment: ResolvedDeployment, worker: Worker) -> ResolvedDeployment:
    """Return the deployment as `worker` has it: with the engine settings of its role and module under [engine]."""
    engine = deployment.config.engine_of(worker.role, worker.module)
    if engine is deployment.config.engine:
        return deployment
    modules = tuple(replace(module, engine=None) for module in deployment.config.decode)
    return replace(deployment, config=replace(deployment.config, engine=engine, decode=modules))


def engine_of(deployment: ResolvedDeployment) -> Worker:
    """Return the engine that holds the prefill module and all decode modules."""
    return Worker(
        name="engine",
        role="engine",
        model=deployment.config.prefill.name,
        checkpoint=deployment.prefill_path,
        adapters=deployment.modules,
    )


def prefill_worker(deployment: ResolvedDeployment, name: str) -> Worker:
    """Return a prefill worker, which holds the prefill module alone."""
    return Worker(name=name, role="prefill", model=deployment.config.prefill.name, checkpoint=deployment.prefill_path)


def decode_worker(deployment: ResolvedDeployment, module: ResolvedModule, name: str) -> Worker:
    """Return a worker of a decode module: an adapter stands on the prefill module's weights, full weights stand alone.

    It decodes over what prefill workers hand it, or is an engine of its own where its module shares no prompts.
    """
    is_full = module.adapter is None
    return Worker(
        name=name,
        role=module.spec.worker_role,
        model=module.spec.name if is_full else deployment.config.prefill.name,
        checkpoint=module.path if is_full else deployment.prefill_path,
        adapters=() if is_full else (module,),
        module=module.spec.name,
    )


def count_slots(deployment: ResolvedDeployment, worker: Worker) -> int:
    """Return how many adapters one batch of a worker with adapters may hold, the prefill module counted as one."""
    num_slots = len(worker.adapters)
    if worker.role == "decode":
        # For the version before, whose calls run on after a reload: SGLang puts any two calls of a decode worker into
        # one batch, and ends where that has more adapters than slots.
        num_slots += 1
    elif not worker.serves_whole_calls and deployment.config.modules.slots is not None:
        num_slots = deployment.config.modules.slots
    return num_slots + 1  # with too few, requests wait for ever
