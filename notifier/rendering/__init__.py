"""From a folder of texts to the bytes of a mail: pure, without database, queue or network.

catalogue reads and freezes templates · assembly joins their files into one source per part ·
sandbox runs them · formats writes money and dates as Vietnamese readers expect · mime encodes ·
blueprint is compiled once and filled per recipient.
"""
