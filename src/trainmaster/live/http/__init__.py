"""The HTTP face of the controller: the API under /api/v1, the status page, and who may do what."""
