# Three images from one file, none of which runs as root:
#   api     answers requests and shows the pages; without TensorFlow and Celery
#   events  events worker, relay, beat and migrations; without TensorFlow and Flask
#   worker  training workers and the command line; with TensorFlow
# `docker build --target api .`; docker-compose.yml builds all three.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# --- the package itself, as a wheel; its build tool comes from the lock, too -----------------------
FROM ${PYTHON_IMAGE} AS package
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/dev.txt requirements/dev.txt
RUN sed -n '/^setuptools==/,/# via/p' requirements/dev.txt > build.txt \
 && pip install --no-cache-dir --require-hashes --only-binary :all: -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY backtalk backtalk
COPY configs configs
COPY migrations migrations
COPY services services
COPY workers workers
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# --- locked dependencies, then the package, one set a kind of process ------------------------------
FROM ${PYTHON_IMAGE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements /requirements
# Without pip: nothing is ever installed into a running container.
RUN python -m venv --without-pip /opt/venv

FROM packages AS api-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: -r /requirements/api.txt
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM packages AS events-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: -r /requirements/worker.txt
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM packages AS worker-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: -r /requirements/train.txt
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl

# --- what all three share at run time --------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS runtime
# The owner of what is written to mounted folders; deploy/prepare.sh chooses it.
ARG RUN_AS=10001
RUN test "${RUN_AS}" -gt 0 \
 && groupadd --gid "${RUN_AS}" backtalk \
 && useradd --uid "${RUN_AS}" --gid "${RUN_AS}" --no-create-home --home-dir /tmp --shell /usr/sbin/nologin backtalk \
 && install --directory --owner backtalk --group backtalk /models /images
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    BACKTALK_STORE=/models \
    BACKTALK_IMAGES=/images
WORKDIR /tmp
USER ${RUN_AS}:${RUN_AS}

FROM runtime AS events
COPY --from=events-packages /opt/venv /opt/venv
# SIGTERM lets a worker finish its task, for as long as BACKTALK_WORKER_GRACE_S says.
ENV REMAP_SIGTERM=SIGQUIT
CMD ["celery", "--quiet", "-A", "workers.app", "worker", "--without-mingle", "--without-gossip", \
     "-Q", "events,ticks", "-n", "events@%h", "-c", "2"]

FROM runtime AS worker
COPY --from=worker-packages /opt/venv /opt/venv
ENV REMAP_SIGTERM=SIGQUIT \
    TF_CPP_MIN_LOG_LEVEL=2
CMD ["celery", "--quiet", "-A", "workers.app", "worker", "--without-mingle", "--without-gossip", \
     "-Q", "training-head", "-n", "training-head@%h", "-c", "1"]

FROM runtime AS api
COPY --from=api-packages /opt/venv /opt/venv
ENV BACKTALK_API_HOST=0.0.0.0
EXPOSE 8000
# Liveness only: an orchestrator that restarts on this must not do so because the database is away.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "services.probe", "/livez"]
CMD ["gunicorn", "-c", "python:services.gunicorn_conf"]
