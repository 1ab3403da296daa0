"""Training of the embedded models from the renderer alone."""
