"""Benchmarks beside rootless podman: `make bench`. Nothing here passes or fails; results go to docs/benchmarks.md."""
