"""Build the image, run it under compose's restrictions, and compare its answers with ours.

`make test-container` runs this. It ends with 0 when the container

1. becomes ready, and its own healthcheck agrees;
2. answers an X-ray as the same code does outside;
3. runs as nobody in particular: no root, no capability, no new privileges, a read-only root file
   system, and no TensorFlow;
4. ends with 0 upon SIGTERM.
"""

import argparse
import logging
import sys
from pathlib import Path

from tests.container import client, compose, engines
from tests.container.shell import ROOT, log

STORE = ROOT / "model_store"
TOLERANCE = 1e-4
CONFINED = {
    "root": False,
    "capabilities": 0,
    "no_new_privileges": True,
    "writable": ["/tmp"],  # noqa: S108 - the container's own, which compose mounts there
    "tensorflow": False,
}
PROBE = """
import importlib.util, json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status") if ":\\t" in line)
print(json.dumps({
    "root": os.getuid() == 0 or status["Uid"].split()[0] == "0",
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip() == "1",
    "writable": [path for path in ("/", "/app", "/run", "/opt/venv", "/tmp", "/var/tmp")
                 if os.access(path, os.W_OK)],
    "tensorflow": importlib.util.find_spec("tensorflow") is not None,
}))
"""


def main() -> None:
    """Read the arguments and run the whole test."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m tests.container", description=__doc__)
    parser.add_argument("--model-store", type=Path, default=STORE, help="another one to serve")
    store = parser.parse_args().model_store.resolve()
    with engines.open_engine() as engine:
        log.info("Building the image with %s ...", engine.command[0])
        engine.build()
        check_container(engine, store)
    log.info("The container answers as the code outside does, confined as compose says.")


def check_container(engine: engines.Engine, store: Path) -> None:
    """Run the image as compose does and check all that is said above.

    Raises:
        AssertionError: Something is not as expected.
    """
    port = client.free_port()
    arguments = [
        *compose.restrictions(compose.read_service()),
        *engine.run_arguments(port),
        *([] if store == STORE else [f"--volume={store}:/app/model_store:ro"]),
        "--env=COVID_XRAY_ALLOW_ANONYMOUS=true",  # as compose: only this machine reaches it
        "--env=COVID_XRAY_ACCEPTANCE=warn",  # a drawn chest has to be answered, too
    ]
    with engines.running(engine, arguments) as container:
        log.info("Ready after %.1f s.", client.wait_until_ready(port, container.is_running))
        container.check_health()
        expect("how the container is confined", container.python(PROBE), CONFINED)
        settings = {"COVID_XRAY_MODEL_STORE": str(store), "COVID_XRAY_ACCEPTANCE": "warn"}
        with client.served_outside(settings) as outside:
            compare_answers(port, outside)
        expect("the exit code upon SIGTERM", container.terminate(timeout=60), 0)


def compare_answers(inside: int, outside: int) -> None:
    """Send the same X-rays to both ports.

    Raises:
        AssertionError: The answers differ.
    """
    for name, data in client.xrays().items():
        here, there = (client.predict(port, name, data) for port in (outside, inside))
        expect(f"the label of {name}", there["label"], here["label"])
        pairs = {
            label: (p, there["probabilities"][label]) for label, p in here["probabilities"].items()
        }
        far = {label: pair for label, pair in pairs.items() if abs(pair[0] - pair[1]) > TOLERANCE}
        expect(f"probabilities of {name} that differ", far, {})
        log.info("%s: %s %s", name, there["label"], there["probabilities"])


def expect(what: str, received: object, expected: object) -> None:
    """Raise unless both are equal.

    Raises:
        AssertionError: They are not.
    """
    if received != expected:
        raise AssertionError(f"{what}: expected {expected}; received {received}")


if __name__ == "__main__":
    main()
