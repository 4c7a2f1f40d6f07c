"""Labels and help pages of every node, in every language that there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hosts.comfy import ComfyServer

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir())


@pytest.fixture(scope="module")
def nodes(comfy_server: ComfyServer) -> dict[str, Any]:
    """This pack's nodes as the server describes them."""
    info = comfy_server.object_info()
    return {name: node for name, node in info.items() if name.startswith("DODE_")}


def test_languages() -> None:
    assert LANGUAGES == ["en", "zh"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_label(comfy_server: ComfyServer, nodes: dict[str, Any], language: str) -> None:
    """No node, input or output without one, none for what is gone; the server hands them out."""
    labels = comfy_server.client.get("/i18n")[language]["nodeDefs"]
    assert labels.keys() >= nodes.keys()
    ours = {name: label for name, label in labels.items() if name.startswith("DODE_")}
    assert ours.keys() == nodes.keys()
    for name, node in nodes.items():
        inputs = {**node["input"]["required"], **node["input"].get("optional", {})}
        assert ours[name]["inputs"].keys() == inputs.keys(), name
        assert list(ours[name]["outputs"]) == [str(i) for i in range(len(node["output"]))], name
        for label in (*ours[name]["inputs"].values(), *ours[name]["outputs"].values()):
            assert all(text.strip() for text in label.values()) and label["name"]
    if language == "en":
        assert all(ours[name]["display_name"] == nodes[name]["display_name"] for name in nodes)


def test_chinese_is_complete(nodes: dict[str, Any]) -> None:
    """Names, tooltips and descriptions, and they are Chinese."""
    labels = json.loads((ROOT / "locales/zh/nodeDefs.json").read_text(encoding="utf-8"))
    for name, label in labels.items():
        texts = [label["display_name"], label["description"]]
        texts += [
            part["tooltip"] for part in (*label["inputs"].values(), *label["outputs"].values())
        ]
        assert all(any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts), name


@pytest.mark.parametrize("page", ["{}.md", "{}/zh.md"], ids=["en", "zh"])
def test_help_pages_name_every_input(
    comfy_server: ComfyServer, nodes: dict[str, Any], page: str
) -> None:
    """A page for each node in each language, that the front end can fetch, about all inputs."""
    labels = json.loads((ROOT / "locales/zh/nodeDefs.json").read_text(encoding="utf-8"))
    for name, node in nodes.items():
        url = f"/extensions/dode/docs/{page.format(name)}"
        text = comfy_server.client.download(url).decode()
        title = labels[name]["display_name"] if "zh" in page else node["display_name"]
        assert text.startswith(f"# {title}\n")
        inputs = {**node["input"]["required"], **node["input"].get("optional", {})}
        assert [word for word in inputs if word not in text] == [], name
