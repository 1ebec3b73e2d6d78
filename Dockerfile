# The service (default, no TensorFlow) and, with `--target training`, the training program.
# Any base works that has `python3` 3.11 to 3.13 with its venv module.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app

# What runs: a virtual environment with the serving dependencies only. They come before the code,
# so that a change of the code does not download them again.
FROM base AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/venv
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
               print('\n'.join(project['dependencies']))" > requirements.txt \
    && python -m pip install --constraint constraints.txt --requirement requirements.txt
COPY LICENSE README.md ./
COPY app app
COPY covid_xray covid_xray
COPY training training
RUN python -m pip install --no-deps .

FROM builder AS training-builder
RUN python -m pip install --constraint constraints.txt ".[train]"

FROM base AS training
LABEL org.opencontainers.image.title="covid-xray-training" \
      org.opencontainers.image.description="Makes the releases that covid-xray serves" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Keras and matplotlib keep their files where the runs are: nothing else can be written.
ENV KERAS_HOME=/app/runs/.keras \
    MPLCONFIGDIR=/tmp/matplotlib
COPY --from=training-builder /opt/venv /opt/venv
COPY training training
USER 10001:10001
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]

# EXTRAS=otel brings what sends spans, EXTRAS=client what `predict --server` needs.
# What the service has no use for is taken out (OpenVINO does without its telemetry, which would
# report every start), and releases are made readable to its user, however they were checked out.
FROM builder AS service-builder
ARG EXTRAS=
RUN if [ -n "$EXTRAS" ]; then \
        python -m pip install --constraint constraints.txt ".[$EXTRAS]"; \
    fi
RUN python -m pip uninstall --yes openvino-telemetry setuptools pip
COPY model_store model_store
RUN chmod -R a+rX model_store

FROM base AS service
LABEL org.opencontainers.image.title="covid-xray" \
      org.opencontainers.image.description="COVID-19 / Normal on frontal chest X-rays, over REST. Research software, no medical device." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV COVID_XRAY_HOST=0.0.0.0 \
    COVID_XRAY_PORT=8000 \
    COVID_XRAY_MODEL_STORE=/app/model_store
COPY --from=service-builder /opt/venv /opt/venv
COPY --from=service-builder /app/model_store model_store
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['COVID_XRAY_PORT'] + '/health/ready', timeout=2)"]
# Without a shell in between: SIGTERM reaches the service itself, which then finishes its requests.
ENTRYPOINT ["covid-xray"]
CMD ["serve"]
