"""Settings of every test: the first example of a property may compile a kernel, so no example has a time limit."""

from hypothesis import settings

settings.register_profile("trainmaster", deadline=None, print_blob=True)
settings.load_profile("trainmaster")
