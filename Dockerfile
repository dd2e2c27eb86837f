# Image of a worker and of the command line. `docker compose up` builds it. See docs/operations.md.
#
#   docker build .                                                     for CPUs
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple .     for NVIDIA GPUs, since PyPI's torch includes CUDA

FROM python:3.11-slim AS build
WORKDIR /src
# The lock is copied first, so that a change of the code does not install torch again.
COPY requirements.lock ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/finch \
    && /opt/finch/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" "$(grep '^torch==' requirements.lock)"
COPY pyproject.toml README.md LICENSE ./
COPY finch_hub ./finch_hub
COPY migrations ./migrations
# The lock constrains the versions. Packages for tests and benchmarks are not installed.
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
# At the first SIGTERM, running jobs are queued again. So wait for FINCH_GRACE_SECONDS when you stop this container.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s CMD ["finch-hub", "worker", "health"]
ENTRYPOINT ["finch-hub"]
CMD ["worker", "start"]
