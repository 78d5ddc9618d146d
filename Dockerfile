# One image for web, workers, beat and the mail catcher; docker-compose.yml chooses the command.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 NOTIFIER_VAR=/var/lib/notifier NOTIFIER_LOG_FORMAT=json

RUN useradd --system --create-home --home-dir /var/lib/notifier notifier
WORKDIR /srv/notifier

# What runs, and none of the tools that test and build.
COPY requirements.txt ./
RUN pip install --use-pep517 --require-hashes -r requirements.txt
COPY notifier notifier
COPY templates templates
COPY campaigns campaigns
COPY sources sources
# The package is run from its folder, so the image needs no tool that builds wheels.
ENV PYTHONPATH=/srv/notifier
RUN python -m compileall -q notifier \
    && printf '#!/bin/sh\nexec python -m notifier "$@"\n' > /usr/local/bin/notifier \
    && chmod +x /usr/local/bin/notifier

USER notifier
EXPOSE 8000
CMD ["notifier", "web", "--host", "0.0.0.0"]
