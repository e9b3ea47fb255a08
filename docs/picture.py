#!/usr/bin/env python3
"""Draw docs/top.svg: `pyvirhost top` with hosts of the test driver, a real one, and one that died.

Needs what the tests need, and takes half a minute.
"""

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from daemon import Daemon  # noqa: E402

from pyvirhost import Host  # noqa: E402
from pyvirhost.cli.top.app import Top  # noqa: E402
from pyvirhost.cli.top.model import State, Watch  # noqa: E402

SIZE = (152, 12)
SAMPLES = 24
INTERVAL = 1.0


async def draw(watch: Watch, dies: Daemon) -> None:
    """Let the hosts be watched for a while, one of them die, and keep the picture."""
    app = Top(watch)
    async with app.run_test(size=SIZE) as pilot:
        while len(watch.hosts["alpha"].history) < SAMPLES:
            await pilot.pause(INTERVAL)
        dies.process.kill()
        dies.process.wait()
        while watch.hosts["gamma"].age(asyncio.get_running_loop().time()) < 7:
            await pilot.pause(INTERVAL)
        assert watch.hosts["gamma"].state(0.0, 0.0) is State.FAILED
        await pilot.press("c")
        await pilot.pause()
        (ROOT / "docs" / "top.svg").write_text(app.export_screenshot(title="pyvirhost top"))


def main() -> None:
    """Start the hosts and draw them."""
    with ExitStack() as stack:
        real, dies = (stack.enter_context(Daemon()) for _ in range(2))
        hosts = {"alpha": real.qemu_uri, "gamma": dies.tcp_uri,
                 "test-1": "test:///default", "test-2": "test:///default"}
        with Watch([Host(name=name, uri=uri, timeout=5.0) for name, uri in hosts.items()],
                   INTERVAL) as watch:
            asyncio.run(draw(watch, dies))
        dies.start()


main()
