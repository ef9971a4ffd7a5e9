"""What is made of several answers or runs: side by side, sweeps, settings found on validation, folders of results."""
