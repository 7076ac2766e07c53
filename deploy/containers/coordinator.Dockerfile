# The coordinator, without torch. From the top of the repository:
#   docker build -f deploy/containers/coordinator.Dockerfile -t fedmq-coordinator .
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
# A folder with wheels, for a build without the net: -v FOLDER:/wheels --build-arg PIP_FIND_LINKS=/wheels
ARG PIP_FIND_LINKS=
# For a run in a database: --build-arg EXTRAS=[postgresql]
ARG EXTRAS=
# zstandard comes twice compiled: CPython takes the other one.
RUN python3 -m venv /opt/fedmq \
 && /opt/fedmq/bin/pip install --no-cache-dir -c constraints.txt ".$EXTRAS" \
 && /opt/fedmq/bin/pip uninstall -y pip setuptools \
 && find /opt/fedmq -depth -type d \( -name tests -o -name test \) -path '*numpy*' -exec rm -rf {} + \
 && rm -f /opt/fedmq/lib/python3*/site-packages/zstandard/_cffi.*

FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin fedmq
COPY --from=build /opt/fedmq /opt/fedmq
ENV PATH=/opt/fedmq/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 FEDMQ_HEALTH_FILE=/tmp/fedmq-healthy
USER 10001:10001
# The role touches this file every ten seconds while it is connected and its loop turns. /tmp is the only place that is
# written besides the state folder: run it with a read-only root and a tmpfs there.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["/bin/sh", "-c", "test -n \"$(find $FEDMQ_HEALTH_FILE -mmin -1)\""]
ENTRYPOINT ["coordinator"]
CMD ["run", "--config", "/fleet"]
