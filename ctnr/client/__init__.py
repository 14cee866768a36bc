"""The thin client: standard library only, and only the cheap part of it.

A whole `exec` has 31 ms, of which this side gets half. So on the way of `run` and `exec` nothing here may import `os`
(1 ms), `signal` (3 ms, enum), `socket` (8 ms), `json` (10 ms, re) or anything above them: their C halves `posix`,
`_signal`, `_socket` and `_json` do the same work and are built in.
"""
