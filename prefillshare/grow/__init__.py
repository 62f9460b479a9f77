"""Families of decode modules that grow: a new task takes what earlier ones learned, and adds only what it lacks.

A family is a folder with a pool of rank-1 units, to which records are appended and in which nothing changes, and an
ordinary adapter per task, each the sum of some of the units. `run` makes one of a task: `search` chooses among the
units there are, retrains them a little and adds new ones where that is not enough.

Run: `prefillshare grow FAMILY --task new.toml` (docs/grow.md). Source: DEN, arXiv 1708.01547.
"""
