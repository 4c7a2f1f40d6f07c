"""A real ComfyUI server with this pack installed, started and driven by the tests."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from .client import Client, ComfyError, ComfyInterrupted, Run
from .install import REPOSITORY, comfy_root, copy_pack

__all__ = [
    "CONDITIONING_PACK",
    "REPOSITORY",
    "RUDE_PACK",
    "ComfyError",
    "ComfyInterrupted",
    "ComfyServer",
    "Run",
    "comfy_root",
]

CONDITIONING_PACK = Path(__file__).parent / "conditioning_pack"
RUDE_PACK = Path(__file__).parent / "rude_pack"
LEVEL_MARK = re.compile(r"^(?:\x1b\[\d+m)*\[[A-Z]+\](?:\x1b\[0m)? ", re.MULTILINE)  # since 0.33


class ComfyServer:
    """A ComfyUI process on its own port, with its own models, input, output and user folders.

        with ComfyServer(tmp_path, packs=[CONDITIONING_PACK]) as server:
            history = server.queue(prompt).wait()

    `base` is ComfyUI's base directory and is left as it is at the end; `pack` is copied to
    `custom_nodes/dode` once, on the first start, and each of `packs` to its own name. Where the
    tests run as root, `obey_permissions` makes read-only folders read-only for the server, if it
    can: `permissions_hold` says so.
    """

    def __init__(
        self,
        base: Path,
        *,
        pack: Path = REPOSITORY,
        packs: Sequence[Path] = (),
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        start_timeout: float = 300,
        obey_permissions: bool = False,
    ) -> None:
        self.base = base.resolve()
        self.models = self.base / "models"
        self.arguments = list(arguments)
        self.environment = dict(environment or {})
        self.start_timeout = start_timeout
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.permissions_hold = not is_root()
        self._prefix: list[str] = []
        if obey_permissions and not self.permissions_hold and shutil.which("setpriv"):
            self._prefix = ["setpriv", "--bounding-set=-dac_override", "--"]
            self.permissions_hold = True
        self._packs = {"dode": pack, **{each.name: each for each in packs}}
        self._client: Client | None = None
        self._log = self.base / "comfyui.log"
        self._log_start = 0

    def __enter__(self) -> ComfyServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the front end is."""
        return f"http://{self.address}/"

    @property
    def pack(self) -> Path:
        """The copy of the pack that the server runs."""
        return self.base / "custom_nodes" / "dode"

    def show_presets(self, shown: bool) -> None:
        """Offer the presets that ship, or hide them: the demo model is then one without a table."""
        index, hidden = self.pack / "lambdas" / "index.json", self.pack / "lambdas" / "hidden.json"
        source, target = (hidden, index) if shown else (index, hidden)
        if source.exists():
            source.rename(target)

    @property
    def client(self) -> Client:
        """The connection to the running server."""
        if self._client is None:
            raise ComfyError("The server is not running.")
        return self._client

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            ComfyError: it died or did not answer in time; the message ends with its log.
        """
        for name in ("custom_nodes", "input", "output", "models", "user"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for name, source in self._packs.items():
            target = self.base / "custom_nodes" / name
            if not target.exists():
                copy_pack(source, target)

        port = free_port()
        self.address = f"127.0.0.1:{port}"
        command = [*self._prefix, sys.executable, "main.py", "--cpu", "--port", str(port)]
        command += ["--disable-api-nodes", "--disable-auto-launch"]
        command += ["--base-directory", str(self.base)]
        # Without this, all servers share one database file in ComfyUI's own folder.
        command += ["--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"]
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                cwd=comfy_root(),
                env=self._process_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_ready()
        self._client = Client(self.address)

    def stop(self) -> None:
        """End the process, gently first."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Stop and start again on the same folders, as a user would between two days."""
        self.stop()
        self.start()

    def log(self) -> str:
        """Return what the server printed since its last start, without ComfyUI's level marks."""
        text = self._log.read_bytes()[self._log_start :].decode(errors="replace")
        return LEVEL_MARK.sub("", text)

    def queue(self, prompt: dict[str, Any]) -> Run:
        """Queue a prompt in API format; see `Client.queue`."""
        return self.client.queue(prompt)

    def interrupt(self) -> None:
        """Press the front end's stop button."""
        self.client.post("/interrupt", json={}).raise_for_status()

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """Return the definitions of all nodes, or that of one."""
        if node is None:
            return self.client.get("/object_info")
        return self.client.get(f"/object_info/{node}")[node]

    def path(self, ref: Mapping[str, str]) -> Path:
        """Return the file behind a reference such as history's `outputs[id]["images"][0]`."""
        return self.base / ref["type"] / ref["subfolder"] / ref["filename"]

    def image(self, ref: Mapping[str, str]) -> Image.Image:
        """Fetch the image behind a reference the way the front end does."""
        content = self.client.download(
            "/view", filename=ref["filename"], subfolder=ref["subfolder"], type=ref["type"]
        )
        return Image.open(io.BytesIO(content))

    def latent(self, ref: Mapping[str, str]) -> Tensor:
        """Read what the stock SaveLatent wrote: `outputs[id]["latents"][0]`."""
        return load_file(self.path(ref))["latent_tensor"]

    def upload_image(self, image: Image.Image, name: str) -> str:
        """Upload an image and return the name that LoadImage knows it by."""
        content = io.BytesIO()
        image.save(content, format="PNG")
        files = {"image": (name, content.getvalue(), "image/png")}
        answer = self.client.post("/upload/image", files=files, data={"overwrite": "true"})
        answer.raise_for_status()
        return answer.json()["name"]

    def _process_environment(self) -> dict[str, str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        # Tiny models are fastest on one thread, and tests run side by side.
        environment.setdefault("OMP_NUM_THREADS", "1")
        # The pack must find its own copy of everything, not the checkout the tests run from.
        environment.pop("PYTHONPATH", None)
        return {**environment, **self.environment}

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        session = requests.Session()
        session.trust_env = False  # the server is on this machine, whatever the proxy
        while True:
            code = self.process.poll() if self.process else None
            if code is not None:
                raise ComfyError(f"ComfyUI ended with code {code}.\n{self.log()[-4000:]}")
            try:
                if session.get(f"{self.url}system_stats", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            if time.monotonic() > deadline:
                raise ComfyError(
                    f"ComfyUI did not answer in {self.start_timeout} s.\n{self.log()[-4000:]}"
                )
            time.sleep(0.1)


def is_root() -> bool:
    """Whether this process may write anywhere."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def free_port() -> int:
    """Return a port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
