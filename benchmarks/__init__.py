"""Measurements on this machine, against named peers in the same run: `make bench`."""
