"""A word between the store and the run, apart so that the one can be imported without the other."""


class Superseded(Exception):
    """A newer attempt at this job has started: this one writes nothing any more."""
