"""The live cluster: the engine of the twin on a wall clock, with real jobs, a store that forgets nothing, and an API."""
