# One image for web, workers, beat and the mail catcher; docker-compose.yml chooses the command.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 NOTIFIER_VAR=/var/lib/notifier NOTIFIER_LOG_FORMAT=json

RUN useradd --system --create-home --home-dir /var/lib/notifier notifier
WORKDIR /srv/notifier

COPY requirements.txt pyproject.toml README.md ./
RUN pip install --use-pep517 --require-hashes -r requirements.txt
COPY notifier notifier
COPY templates templates
COPY campaigns campaigns
COPY sources sources
RUN pip install --no-deps --no-build-isolation .

USER notifier
EXPOSE 8000
CMD ["notifier", "web", "--host", "0.0.0.0"]
