"""The WebUI adapter: one code for A1111, Forge, reForge, Classic and what is like them.

``samplers`` puts D-ODE in the dropdowns, ``sampling`` is the sampler, ``options`` what the
accordion and the API choose; ``request``, ``calibration``, ``job`` and ``distill`` run one
inside the host's own pipeline, and ``panel``, ``api`` and ``grid`` are its faces. All that is read
from the host goes through ``host``.

Not named ``webui``: that module is the host's. Imports are absolute because the host puts this
repository's folder on ``sys.path`` while it loads ``scripts/``.
"""
