"""From a batch of messages to the replies of SMTP servers. The only room with asyncio in it."""
