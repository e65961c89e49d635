# docker build -t triptych .
# docker run --rm --user "$(id -u)" -v "$PWD:/work" triptych train --backend jax
#
# Data and runs are the mounted folder's data/ and runs/. A GPU: docker build --build-arg ACCEL=cuda13, and
# docker run --gpus all.
FROM python:3.12-slim
ARG ACCEL=
WORKDIR /opt/triptych
# What is installed changes seldom: a layer of its own, every file held to the lock's hashes.
COPY requirements.txt requirements.lock ./
COPY tools ./tools
RUN python -m tools.install requirements.lock ${ACCEL:+"jax[$ACCEL]"}
COPY . .
RUN pip install --no-cache-dir --no-deps .
# Caches of a user that the image does not know.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["triptych"]
CMD ["--help"]
