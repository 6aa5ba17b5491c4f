"""A real server on loopback and a real browser, one for each module that wants it."""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from edge_agent.web.app import WebServer, create_app
from tests.web.plant import Plant

Serve = Callable[[Plant], Awaitable[str]]

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def serve() -> AsyncIterator[Serve]:
    """Return a function that serves a plant and returns its address, http://127.0.0.1:port."""
    async with AsyncExitStack() as stack:

        async def start(plant: Plant) -> str:
            server = WebServer()
            address = await server.start(create_app(plant.sources()), "127.0.0.1:0")
            stack.push_async_callback(server.stop)
            return f"http://{address}"

        yield start
