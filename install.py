"""The WebUI's install hook: there is nothing to install, so it does nothing, silently."""
