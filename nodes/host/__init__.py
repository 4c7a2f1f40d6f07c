"""What the node files stand on: the host's side of calibration, sampling, identity and files."""
