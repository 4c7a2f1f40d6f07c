"""The ComfyUI adapter: calibration through the host's guider, table files, nodes.

One file a node; what they stand on is in ``host``: ``models`` says which checkpoint a MODEL is,
``store`` where its tables are, ``calibrate`` runs a distillation as a sampler, ``sampling`` is the
sampler.
"""

from __future__ import annotations

import logging
from importlib import import_module

from comfy_api.latest import ComfyExtension, io

NODE_FILES = (
    "distill_node",
    "prompts_node",
    "ksampler_node",
    "sampler_node",
    "scheduler_node",
    "load_table_node",
    "save_table_node",
    "apply_node",
    "compare_node",
    "settings_node",
    "demo_node",
)


class DodeExtension(ComfyExtension):
    """What ComfyUI asks for the nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node whose file loads; a broken file costs its own nodes only."""
        try:
            import_module(".host.sampling", __name__).register()
        except Exception:
            logging.exception("D-ODE: the sampler 'dode' is not in the menus.")
        try:
            import_module(".host.routes", __name__).register()
        except Exception:
            logging.exception("D-ODE: the panel with the tables has nothing to show.")
        return [node for name in NODE_FILES for node in nodes_of(name)]


def nodes_of(name: str) -> list[type[io.ComfyNode]]:
    """The nodes of one file; none, with the reason in the log, when it fails to load."""
    try:
        found: list[type[io.ComfyNode]] = import_module(f".{name}", __name__).NODES
        for node in found:
            node.GET_SCHEMA()  # ComfyUI gives up the whole pack over one faulty schema
        return found
    except Exception:
        logging.exception("D-ODE: nodes/%s.py failed to load; the other nodes work.", name)
        return []
