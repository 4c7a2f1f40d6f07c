"""The WebUI's install hook. There is nothing to install, so it does nothing, quickly and silently."""
