"""What the Makefile runs: executing, checking and storing the notebooks. Not part of the wheel."""
