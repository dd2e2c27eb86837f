# A worker (and the command line) of Finch Hub. `docker compose up` builds it; see docs/operations.md.
#
#   docker build .                                                     for CPUs
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple .     for NVIDIA GPUs: PyPI's torch brings CUDA

FROM python:3.11-slim AS build
WORKDIR /src
# The lock first: a change of our code does not install torch again.
COPY requirements.lock ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/finch \
    && /opt/finch/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" "$(grep '^torch==' requirements.lock)"
COPY pyproject.toml README.md LICENSE ./
COPY finch_hub ./finch_hub
COPY migrations ./migrations
# Locked versions, but only of what the extras need, not of what tests and benchmarks do.
ARG EXTRAS=postgres,s3
RUN /opt/finch/bin/pip install --no-cache-dir --constraint requirements.lock ".[${EXTRAS}]"

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home --home-dir /var/lib/finch finch \
    && install --directory --owner finch --mode 0700 /var/lib/finch/home /var/lib/finch/artifacts
COPY --from=build /opt/finch /opt/finch
ENV PATH=/opt/finch/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FINCH_HOME=/var/lib/finch/home \
    HF_HOME=/var/lib/finch/home/huggingface
USER finch
WORKDIR /var/lib/finch
VOLUME ["/var/lib/finch/home", "/var/lib/finch/artifacts"]
# The first SIGTERM hands running jobs back, so whoever stops this container should wait for FINCH_GRACE_SECONDS.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s CMD ["finch-hub", "worker", "health"]
ENTRYPOINT ["finch-hub"]
CMD ["worker", "start"]
