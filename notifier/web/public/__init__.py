"""Pages for taxpayers: no login, and everything works without scripts."""
