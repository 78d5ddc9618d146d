"""Private servers: PostgreSQL, Valkey and the mail catcher, with its mailbox."""
