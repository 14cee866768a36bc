"""Files of containers, from outside: copied in and out, and what has changed. The programs here run in the sandbox."""
