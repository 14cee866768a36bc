"""The service: a supervisor behind a Unix socket, for clients that are too short-lived to hold one."""
