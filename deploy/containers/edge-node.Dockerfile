# An edge node with torch. From the top of the repository, for CPUs:
#   docker build -f deploy/containers/edge-node.Dockerfile --build-arg PIP_EXTRA_INDEX_URL=URL -t fedmq-edge-node .
# where URL is PyTorch's index of CPU builds, which is on its installation page: without it, Linux on x86 takes the builds
# for GPUs, several gigabytes. For a GPU: leave it out, and run the container with the device (--gpus all). On a Jetson:
# --build-arg BASE=NVIDIA's image for it, and --build-arg EXTRAS=demo where that image has a torch of its own. The task
# digits needs scikit-learn: --build-arg EXTRAS=torch,demo.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY compression/update_codec compression/update_codec
COPY federation federation
COPY coordinator coordinator
COPY edge_node edge_node
COPY fedmq fedmq
COPY site_gateway site_gateway
COPY sum_helper sum_helper
ARG EXTRAS=torch
ARG PIP_EXTRA_INDEX_URL=
# A folder with wheels, for a build without the net: -v FOLDER:/wheels --build-arg PIP_FIND_LINKS=/wheels
ARG PIP_FIND_LINKS=
# What only compiling against torch needs is a tenth of it; of its programs it asks for one when it is imported.
RUN python3 -m venv --system-site-packages /opt/fedmq \
 && /opt/fedmq/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]" \
 && /opt/fedmq/bin/pip uninstall -y pip setuptools \
 && cd /opt/fedmq/lib/python3*/site-packages \
 && rm -rf torch/include torch/share torch/test torch/lib/*.a zstandard/_cffi.* \
 && find . -path './torch/bin/*' ! -name torch_shm_manager -delete \
 && find . -depth -type d \( -name tests -o -name test \) \( -path '*numpy*' -o -path '*sympy*' -o -path '*networkx*' \) -exec rm -rf {} +

FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin fedmq
COPY --from=build /opt/fedmq /opt/fedmq
# Libraries that want a home for their caches find it in /tmp.
ENV PATH=/opt/fedmq/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp FEDMQ_HEALTH_FILE=/tmp/fedmq-healthy
USER 10001:10001
# The role touches this file every ten seconds while it is connected and its loop turns. /tmp is the only place that is
# written besides the state folder: run it with a read-only root and a tmpfs there.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["/bin/sh", "-c", "test -n \"$(find $FEDMQ_HEALTH_FILE -mmin -1)\""]
ENTRYPOINT ["edge-node"]
CMD ["run", "--config", "/node"]
