"""Data files that ship with the package: the almanac, a small corpus for demos and tests."""
