# The exporter's image: Debian's Python, one virtual environment, nobody as the user, nothing that is written to.
#
#   docker build -t gpu-exporter .
#
# The same for every processor: --platform linux/amd64,linux/arm64 builds both. What takes long is done by the builder's own
# processor; of another one, only Debian's Python is installed and tried under emulation. BASE may be any Debian with Python
# 3.10 or newer in its packages; its digest is of the list of all processors (.github/workflows/lock.yml raises it).
# Docker without buildx and older podmans do not tell what they run on: --build-arg BUILDER=linux/arm64 on an ARM machine.
# docs/CONTAINER.md tells how the image is run.
ARG BASE=docker.io/library/debian:trixie-slim@sha256:a29215f6a35e51e22adffa17f89e9d2ef06214e64a2bad10d765c46aea49f11f
ARG BUILDER=linux/amd64

FROM --platform=${BUILDPLATFORM:-$BUILDER} ${BASE} AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-pip
WORKDIR /src
COPY requirements/build.txt requirements/image.txt requirements/
ARG TARGETARCH
# The environment gets no pip: what is not there needs no patches. pip compiles what it installs, because nobody could
# write the bytecode later; that is the same for every processor, and so are links and scripts. It asks for compiled packages
# by the names of all platforms that this glibc can load, newest first, as it would on that processor. What the wheel is built
# with stays behind in an environment of its own.
RUN python3 -m venv --without-pip /opt/gpu-exporter \
    && python3 -m venv --without-pip /opt/build \
    && packages=$(/opt/gpu-exporter/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("platlib"))') \
    && case "${TARGETARCH:=$(uname -m)}" in amd64) cpu=x86_64 ;; arm64) cpu=aarch64 ;; *) cpu=$TARGETARCH ;; esac \
    && minor=$(getconf GNU_LIBC_VERSION | cut -d. -f2) \
    && python3 -m pip --python /opt/gpu-exporter/bin/python3 install --no-cache-dir --require-hashes --only-binary=:all: \
        $(seq --format="--platform=manylinux_2_%.0f_$cpu" "$minor" -1 5) "--platform=manylinux2014_$cpu" \
        --target="$packages" --requirement requirements/image.txt \
    && rm -rf "$packages/bin" \
    && python3 -m pip --python /opt/build/bin/python3 install --no-cache-dir --no-compile --require-hashes \
        --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
RUN /opt/build/bin/python3 -m hatchling build --target wheel --directory /tmp/wheel \
    && python3 -m pip --python /opt/gpu-exporter/bin/python3 install --no-cache-dir --no-deps /tmp/wheel/*.whl
COPY deploy/container/healthcheck.py /opt/gpu-exporter/healthcheck.py

FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gpu-exporter" \
      org.opencontainers.image.description="Prometheus exporter for NVIDIA GPUs: which is sick, which is wasted, who holds it" \
      org.opencontainers.image.source="https://github.com/gpu-exporter/gpu-exporter" \
      org.opencontainers.image.documentation="https://github.com/gpu-exporter/gpu-exporter/blob/main/docs/CONTAINER.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/gpu-exporter /opt/gpu-exporter
# For the NVIDIA runtime: all GPUs, and of the driver only what nvidia-smi needs (libnvidia-ml.so.1).
ENV PATH=/opt/gpu-exporter/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility
# Where a hub keeps its history: a volume that is mounted there for the first time belongs to nobody as well. And what is
# compiled has to load here, on the image's own processor.
RUN install --directory --owner=65534 --group=65534 /var/lib/gpu-exporter \
    && python3 -I -c 'import aiohttp, bcrypt, h2, msgspec, starlette, uvicorn, yaml.cyaml'
# nobody, as a number: Kubernetes' runAsNonRoot wants to see that it is not 0.
USER 65534:65534
WORKDIR /
EXPOSE 9435
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/opt/gpu-exporter/bin/python3", "-I", "/opt/gpu-exporter/healthcheck.py"]
ENTRYPOINT ["gpu-exporter"]
