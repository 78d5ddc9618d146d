"""What the service is about.

Topics, taxpayers, suppression, templates, campaigns and their states, the calendar, links. Knows no
Celery, web or SMTP.
"""
