# Mosquitto from the distribution's packages, where the official image is not at hand:
#   docker build -f deploy/containers/broker.Dockerfile -t fedmq-broker .     and FEDMQ_BROKER_IMAGE=fedmq-broker
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends mosquitto \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*
ENV PATH=/usr/sbin:$PATH
USER 10001:10001
WORKDIR /fleet/broker
# Whether it listens on the port of its configuration, seen from outside: a connection would be a line in its log each time.
COPY deploy/containers/broker-listens.sh /usr/local/bin/broker-listens
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/local/bin/broker-listens"]
# Each client is an open file: as many as the engine allows, not the usual 1,024.
ENTRYPOINT ["sh", "-c", "ulimit -n \"$(ulimit -Hn)\"; exec mosquitto \"$@\"", "mosquitto"]
CMD ["-c", "mosquitto.conf"]
