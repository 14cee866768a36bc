"""OCI runtimes: which one works here, and what we ask of it."""
