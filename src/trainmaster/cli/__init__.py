"""The command line: one file a verb. A verb's docstring begins with `trainmaster NAME`."""
