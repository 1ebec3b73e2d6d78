"""The service on several machines, by Ray Serve: `serve run app.cluster:app`.

Each replica is the whole service as it runs on one machine, with an engine and a scheduler of its
own, but for the listening: Ray's proxies listen, and pass requests on to the replica that has the
fewest. What they answer themselves is put into this service's terms by `app.ingress`.
"""

import math
from collections.abc import Mapping
from contextlib import AsyncExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from app.logs import configure_logging
from app.main import create_app
from app.metrics import Measured, Registry, merge
from app.settings import Settings, load_settings

try:
    import ray
    from ray import serve
except ImportError:
    raise ImportError(
        "Expected the extra scale to be installed ("
        "pip install --constraint constraints.txt --editable '.[scale]'); received no Ray Serve."
    ) from None

NAME = "covid-xray"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 -- nothing is bound to it
GATHERING_S = 5.0
"""In which all replicas have to tell what they measured; who does not is left out."""


class Replica:
    """One service in one of Ray's processes; Ray calls all of this.

    Raises:
        CovidXrayError: The service cannot start.
        SettingsInvalid: A variable of the environment cannot be used.
    """

    async def __init__(self) -> None:  # type: ignore[misc]  # Ray waits for it
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        self._app = create_app(fit(settings, ray.get_runtime_context().get_assigned_resources()))
        self._gather_own = self._app.state.gather
        self._app.state.gather = self._gather
        self._open = AsyncExitStack()
        # Not by ASGI's lifespan, in whose errors Ray does not say why a start failed.
        await self._open.enter_async_context(self._app.router.lifespan_context(self._app))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Give Ray what answers requests."""
        return _without_lifespan(self._app)

    async def check_health(self) -> None:
        """Tell Ray whether to go on with this replica.

        Raises:
            NotReady: It should be replaced.
        """
        self._app.state.service.check_ready()

    async def measure(self) -> tuple[str, Measured]:
        """Give this replica's name, and what it measured."""
        own: Registry = await self._gather_own()
        return serve.get_replica_context().replica_id.unique_id, list(own.collect())

    async def _gather(self) -> Registry:
        """Ask all replicas what they measured: a proxy gives `/metrics` to any of them."""
        asked = serve.get_deployment_handle(NAME, serve.get_replica_context().app_name)
        found = await asked.broadcast("measure").results_async(
            timeout_s=GATHERING_S, return_exceptions=True
        )
        return merge(dict(each for each in found if not isinstance(each, BaseException)))

    async def __del__(self) -> None:
        """Let what runs come to its end, where Ray has let no more in."""
        await self._open.aclose()


def fit(settings: Settings, resources: Mapping[str, float]) -> Settings:
    """Fit settings to a replica.

    Args:
        settings: As they are for one machine.
        resources: What Ray gave the replica: name → amount.

    Returns:
        Threads for its CPUs where nothing else is said: Ray counts them and does not bind it to
        them. And the address of all, since where the proxies listen is not known to it: without
        keys, somebody has to say that everybody may ask.
    """
    threads = settings.threads or max(1, math.floor(resources.get("CPU", 1)))
    return settings.model_copy(update={"host": ANY_ADDRESS, "threads": threads})


def _without_lifespan(app: ASGIApp) -> ASGIApp:
    """Have an application that is open already answer when it is asked to open and to close."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return answer


deployment = serve.deployment(
    serve.ingress()(Replica),
    name=NAME,
    ray_actor_options={"num_cpus": 1},
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 5,
        "downscale_delay_s": 300,
    },
    # Beyond what a replica has at once, requests wait at the proxy, for whichever is free first.
    max_ongoing_requests=8,
    max_queued_requests=64,
    backpressure_config={"retry_after_s": 1},  # by which `app.ingress` knows it
    # A replica is stopped when another of the new release stands in its place.
    max_surge_percent=25,
    max_constructor_retry_count=2,
    graceful_shutdown_timeout_s=40,  # longer than a request may take
    health_check_period_s=2,
)
app = deployment.bind()
"""What `serve run` starts; `deploy/ray/serve.yaml` has the same figures, to be changed there."""
