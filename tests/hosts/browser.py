"""ComfyUI's front end in a headless Chromium, driven through Playwright."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from playwright.sync_api import Browser, Locator, Page, Playwright, TimeoutError, sync_playwright

from .client import ComfyError

CHROMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# What a user clicks away once: they would cover the graph.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
CLICKED_AWAY = "localStorage.setItem('vueNodesBannerDismissed', 'true')"

READY = """() => window.app?.extensionManager && window.app.graph
    && !document.querySelector('.p-blockui-mask')"""

LISTEN = """() => {
    window.dodeEnd = null;
    const end = event => { window.dodeEnd = {kind: event.type, data: event.detail}; };
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        window.app.api.addEventListener(kind, end, {once: true});
}"""

# A node draws its images some frames after the run has ended: on the graph's canvas, or, with
# the front end's "Nodes 2.0", as elements of the page.
DRAWN = """() => {
    const drawn = node => {
        if (node.flags?.collapsed) return true;  // it shows its title alone
        const images = window.app.nodeOutputs?.[node.id]?.images ?? [];
        return !images.length || (node.imgs?.length && node.imgs.every(img => img.complete));
    };
    return [...document.images].every(img => img.complete)
        && (window.LiteGraph.vueNodesMode || window.app.graph.nodes.every(drawn));
}"""


# Where the graph is in the window, with a margin; titles stand above their node's position.
GRAPH_BOX = """() => {
    const {offset, scale} = window.app.canvas.ds;
    if (window.LiteGraph.vueNodesMode) {  // elements may be larger than their nodes say
        const boxes = [...document.querySelectorAll('[data-node-id]')]
            .map(element => element.getBoundingClientRect());
        const edge = (end, side, add) => Math[end](...boxes.map(box => box[side])) + add * scale;
        const x = edge('min', 'left', -20), y = edge('min', 'top', -40);
        const width = edge('max', 'right', 20) - x, height = edge('max', 'bottom', 20) - y;
        return {x, y, width, height};
    }
    const nodes = window.app.graph.nodes;
    const edge = (end, pick, add) => Math[end](...nodes.map(n => pick(n.pos) + add(n)));
    const left = edge('min', p => p[0], () => -20), top = edge('min', p => p[1], () => -70);
    const right = edge('max', p => p[0], n => n.size[0] + 20);
    const bottom = edge('max', p => p[1], n => n.size[1] + 20);
    return {
        x: (left + offset[0]) * scale,
        y: (top + offset[1]) * scale,
        width: (right - left) * scale,
        height: (bottom - top) * scale,
    };
}"""


class BrowserMissing(RuntimeError):
    """No browser on this machine; a test may skip for it."""


def find_chrome() -> str:
    """Return the path of a Chromium or Chrome: `DODE_CHROME`, or the first on PATH.

    Raises:
        BrowserMissing: there is none.
    """
    named = os.environ.get("DODE_CHROME")
    for name in (named,) if named else CHROMES:
        path = shutil.which(name)
        if path:
            return path
    looked_for = named or ", ".join(CHROMES)
    raise BrowserMissing(
        f"No browser found ({looked_for}). Install Chromium, or set DODE_CHROME to its path."
    )


class FrontEnd:
    """The front end of a running server, opened in a browser.

        with ComfyServer(tmp_path) as server, FrontEnd(server.url) as front:
            front.load(json.loads(workflow.read_text()))
            front.queue()
            front.wait()
            front.screenshot(tmp_path / "graph.png")

    `page` is Playwright's page, for everything else.
    """

    def __init__(
        self,
        url: str,
        *,
        width: int = 1600,
        height: int = 900,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = url
        self.size = (width, height)
        self.settings = {**SETTINGS, **(settings or {})}
        self.errors: list[str] = []
        """Exceptions that no script of the page caught."""
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._page: Page | None = None

    def __enter__(self) -> FrontEnd:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def page(self) -> Page:
        """Playwright's page."""
        if self._page is None:
            raise RuntimeError("The front end is not open.")
        return self._page

    def open(self) -> None:
        """Start the browser and wait until the front end has drawn its graph."""
        chrome = find_chrome()
        self.set(self.settings)
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=chrome, args=FLAGS)
        width, height = self.size
        self._page = self._browser.new_page(viewport={"width": width, "height": height})
        self._page.add_init_script(CLICKED_AWAY)
        self._page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.reload()

    def set(self, settings: Mapping[str, Any]) -> None:
        """Change settings on the server; the page knows of them when it is loaded again."""
        with requests.Session() as session:
            session.trust_env = False  # the server is on this machine, whatever the proxy
            session.post(f"{self.url}settings", json=settings, timeout=60).raise_for_status()

    def close(self) -> None:
        """End the browser."""
        if self._browser is not None:
            self._browser.close()
        if self._playwright is not None:
            self._playwright.stop()
        self._browser = self._playwright = self._page = None

    def reload(self) -> None:
        """(Re)load the page, as a user does to see new files in a list."""
        self.page.goto(self.url, timeout=120_000)
        self.page.wait_for_function(READY, timeout=120_000)

    def reset(self) -> None:
        """Reload the page without the graphs that it remembers."""
        self.page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
        self.reload()

    def load(self, workflow: dict[str, Any]) -> None:
        """Put a workflow (UI format, as saved by the front end) into the graph."""
        self.page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        self.fit()

    def load_prompt(self, prompt: dict[str, Any], name: str = "prompt") -> None:
        """Put a prompt (API format) into the graph; the front end arranges the nodes."""
        self.page.evaluate(
            "([prompt, name]) => window.app.loadApiJson(prompt, name)", [prompt, name]
        )
        self.fit()

    def open_search(self, box: Locator, x: int, y: int) -> None:
        """Double click on the canvas until its search box is there."""
        for _ in range(5):  # a canvas that is still busy swallows the double click
            self.page.mouse.dblclick(x, y)
            try:
                box.wait_for(state="visible", timeout=15_000)
                return
            except TimeoutError:
                continue

    def fit(self) -> None:
        """Scroll and zoom so that the whole graph is in view."""
        self.page.evaluate(
            "() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')"
        )

    def workflow(self) -> dict[str, Any]:
        """Return the graph in UI format, as the front end would save it."""
        # As text: on its way here, Playwright would turn what is undefined into null.
        return json.loads(self.page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))

    def prompt(self) -> dict[str, Any]:
        """Return the graph in API format: what `ComfyServer.queue` takes."""
        prompt = "async () => JSON.stringify((await window.app.graphToPrompt()).output)"
        return json.loads(self.page.evaluate(prompt))

    def queue(self) -> None:
        """Queue the graph once, as the Run button does.

        Raises:
            ComfyError: the server found it invalid; `details` holds the nodes' errors.
        """
        self.page.evaluate(LISTEN)
        errors = self.page.evaluate(
            "async () => { await window.app.queuePrompt(0, 1); return window.app.lastNodeErrors; }"
        )
        if errors:
            sentences = [
                f"{node['class_type']} (node {node_id}): {problem['message']}: {problem['details']}"
                for node_id, node in errors.items()
                for problem in node["errors"]
            ]
            raise ComfyError("\n".join(sentences), errors)

    def wait(self, timeout: float = 300) -> None:
        """Wait until the queued graph has run.

        Raises:
            ComfyError: a node raised, or the run was interrupted.
        """
        self.page.wait_for_function("() => window.dodeEnd", timeout=timeout * 1000)
        end = self.page.evaluate("() => window.dodeEnd")
        if end["kind"] != "execution_success":
            sentence = end["data"].get("exception_message", "The run was interrupted.")
            raise ComfyError(sentence.strip(), end["data"])

    def screenshot(self, file: Path, graph_only: bool = False) -> Path:
        """Save what the window, or its graph, shows, as PNG, once all images are drawn."""
        self.page.wait_for_function(DRAWN)
        self.page.evaluate("() => new Promise(done => setTimeout(done, 500))")  # animations
        file.parent.mkdir(parents=True, exist_ok=True)
        clip = self.page.evaluate(GRAPH_BOX) if graph_only else None
        self.page.screenshot(path=file, clip=clip)
        return file
