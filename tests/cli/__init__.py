"""The command line as a person uses it: real containers, real terminals, as root and as an ordinary user."""
