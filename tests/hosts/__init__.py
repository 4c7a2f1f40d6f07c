"""Real hosts for the tests: a ComfyUI server, a browser on its front end, tiny checkpoints."""
