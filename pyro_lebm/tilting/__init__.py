"""An energy over several sites of a Pyro program at once."""
