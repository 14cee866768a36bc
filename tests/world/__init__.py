"""The small world that tests live in: a private machine, its people, a registry, an internet, and a leak guard."""
