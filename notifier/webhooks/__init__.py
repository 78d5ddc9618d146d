"""Calls to other systems: where they may lead, how they are signed and delivered."""
