"""The command line: argv in, one request out, and what comes back made readable for people and for programs."""
