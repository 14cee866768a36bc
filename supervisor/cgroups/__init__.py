"""Control groups: found, made where there is something to limit, frozen, read and removed. No process is run here."""
