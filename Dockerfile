# A server of a run, on the CPU, as a user without rights.
#
#   docker build -t lirdrec .
#   docker run --rm -p 8000:8000 -v ./runs:/runs -v lirdrec-live:/data -v ./keys.json:/keys.json:ro lirdrec
#
# /runs/current is a file that names the run (or a link to it); /data keeps what is added while serving. The user in the
# container has the number 10001: give it the file of keys, which only its owner can read (sudo chown 10001 keys.json).

FROM python:3.12-slim AS build
# Where torch without CUDA comes from: the usual wheels are several gigabytes larger.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/lirdrec
ENV PATH=/opt/lirdrec/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
# the same versions as the tests run with; of torch's, "+cpu" counts as the newer one
RUN pip install --compile -c constraints.txt --extra-index-url "$TORCH_INDEX" ".[serve,postgres]"

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin lirdrec \
    && install -d -o lirdrec -g lirdrec -m 750 /data
COPY --from=build /opt/lirdrec /opt/lirdrec
ENV PATH=/opt/lirdrec/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LIRDREC_STORE=sqlite:////data/live.sqlite
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# long enough for torch to be imported on a small machine
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["lirdrec"]
CMD ["serve", "/runs/current", "--watch", "--host", "0.0.0.0", "--keys", "/keys.json"]
