# Image of a worker and of the command line. `docker compose up` builds it. See docs/operations.md.
#
#   docker build .                                                     for CPUs
#   docker build --build-arg TORCH=cuda .                              for NVIDIA GPUs

FROM python:3.11-slim AS build
WORKDIR /src
# The locks are copied first, so that a change of the code does not install torch again.
COPY requirements.lock requirements-dev.lock requirements-cpu.lock requirements-cuda.lock ./
ARG TORCH=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/finch \
    && /opt/finch/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock \
    && if [ "${TORCH}" = cpu ]; then set -- --index-url "${TORCH_INDEX}"; else set -- --require-hashes; fi \
    && /opt/finch/bin/pip install --no-cache-dir --no-deps "$@" --requirement "requirements-${TORCH}.lock"
COPY pyproject.toml README.md LICENSE ./
COPY finch_hub ./finch_hub
COPY migrations ./migrations
# Only the packages of the extras are still missing. requirements-dev.lock says in which versions.
ARG EXTRAS=postgres,s3
RUN sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' requirements-dev.lock > constraints.txt \
    && /opt/finch/bin/pip install --no-cache-dir --no-build-isolation --constraint constraints.txt ".[${EXTRAS}]"

FROM python:3.11-slim
# tini is process 1. It passes signals on, and reaps the processes that the child of a worker leaves.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 finch \
    && useradd --uid 10001 --gid finch --create-home --home-dir /var/lib/finch finch \
    && install --directory --owner finch --group finch --mode 0700 /var/lib/finch/home /var/lib/finch/artifacts
COPY --from=build /opt/finch /opt/finch
ENV PATH=/opt/finch/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FINCH_HOME=/var/lib/finch/home \
    FINCH_HEALTH_FOLDER=/tmp/finch-health \
    HF_HOME=/var/lib/finch/home/huggingface
# A number, since Kubernetes cannot tell from a name whether it is root.
USER 10001:10001
WORKDIR /var/lib/finch
VOLUME ["/var/lib/finch/home", "/var/lib/finch/artifacts"]
# At the first SIGTERM, running jobs are queued again. So wait for FINCH_GRACE_SECONDS when you stop this container.
STOPSIGNAL SIGTERM
# The worker touches the file every second, whether or not database and broker answer.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["sh", "-c", "find \"$FINCH_HEALTH_FOLDER/alive\" -mmin -3 | grep -q ."]
ENTRYPOINT ["tini", "--", "finch-hub"]
CMD ["worker", "start"]
