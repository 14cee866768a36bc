"""One sandbox: the namespaces around one init, and what the supervisor asks of it."""
