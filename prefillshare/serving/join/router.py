"""The router of a deployment by itself: its workers join from wherever they run."""

import shutil
import time

from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.naming.changes import Changes
from prefillshare.open_files import raise_limit
from prefillshare.places import new_private_folder
from prefillshare.serving.machine.ports import check_address
from prefillshare.serving.options import LaunchOptions, Listener
from prefillshare.serving.run.cluster import RunningCluster
from prefillshare.serving.run.launch_ground import LaunchGround
from prefillshare.serving.run.members import supervise_router
from prefillshare.serving.run.readiness import wait_until_listening
from prefillshare.serving.run.router_process import RouterFile
from prefillshare.serving.run.store_hold import StoreHold
from prefillshare.serving.run.supervisor import Supervisor


def launch_router(
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    on_event: Listener = lambda text: None,
    changes: Changes | None = None,
) -> RunningCluster:
    """Start the router of `deployment` without any worker; return when it answers.

    `changes` are those of the aliases that it is to know from the first.
    Effects: on any failure or interruption, no process is left.
    Raises: LaunchError with the router's own reason and the path of its log.
    """
    check_address(options.host, options.port)
    raise_limit()
    started_at, directory = time.monotonic(), new_private_folder()
    supervisor = Supervisor([], on_event)
    try:
        file = RouterFile.create(directory, deployment, options, (), None)
        file.tell_changes(changes or {})
        router = supervise_router(file, options)
        supervisor.members.append(router)
        supervisor.begin()
        assert router.process is not None
        wait_until_listening(
            [(router.process, router.url)], options.api_key, options.start_timeout_s, lambda stage: None
        )
        router.state = "running"
    except BaseException:
        supervisor.kill()
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return RunningCluster(
        deployment=deployment,
        ground=LaunchGround(deployment, options, (), file, router.url),
        router=router,
        supervisor=supervisor,
        forks=None,
        log_path=file.log_path,
        directory=directory,
        api_key=options.api_key,
        admin_key=options.admin_key,
        start_s=time.monotonic() - started_at,
        store=StoreHold(()),
    )
