"""`make dist`, and containers in containers: the project's first text, typed as it stands there."""
