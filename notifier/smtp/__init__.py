"""One channel: connections, dialogue, replies as verdicts."""
