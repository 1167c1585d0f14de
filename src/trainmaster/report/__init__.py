"""Runs side by side: in a terminal, and as a page that needs no network."""
