"""The one module of verbs for `recipient`: whom a mail is for, with the values of its template."""

from __future__ import annotations

# Part of the statement that queues notices: their recipients are numbered before, in `o`, so that
# each message knows its own.
OF_NOTICES = """
    INSERT INTO recipient (id, tax_code, name, language, address_ids, data)
    OVERRIDING SYSTEM VALUE
    SELECT recipient_id, tax_code, name, language, ARRAY[address_id], cast(data AS json) FROM o"""
