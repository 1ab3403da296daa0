"""The commands of the Makefile: executing, checking and storing the notebooks. Not part of the wheel."""
