"""From an officer's file to recipients: tables are read, columns found, rows checked, and everything is accounted for."""
