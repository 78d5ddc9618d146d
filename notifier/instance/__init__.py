"""What `notifier up` starts and watches: the supervisor and, in servers/, private servers."""
