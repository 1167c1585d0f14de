"""What runs beside the jobs on a node: the fork server, the supervisor of an attempt, the look-alikes that jobs find on PATH.

Modules here (but `plan` and `snapshot`, which the controller uses) import the standard library alone: the fork server stays small, and
a fork of it is a supervisor within a millisecond.
"""
