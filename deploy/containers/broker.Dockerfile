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
ENTRYPOINT ["mosquitto"]
CMD ["-c", "mosquitto.conf"]
