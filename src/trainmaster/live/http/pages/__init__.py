"""The status page: made on the server, kept fresh by forty lines of script, nothing fetched from elsewhere."""
