"""Trainmaster: a deep-learning cluster manager. One scheduling loop, two clocks."""

__version__ = "0.1.0"
