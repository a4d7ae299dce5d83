# captune with its embedded models, for use without a network: see docs/docker.md.
#   docker build --tag captune .
#   docker build --tag captune:cuda --build-arg BACKEND=cuda .
FROM python:3.13.9-slim-bookworm

# cpu: torch without CUDA, 2 GB in all; cuda: as the lock file has it, 7 GB
ARG BACKEND=cpu
# uv asks torch's own index for the build without CUDA
ARG UV_VERSION=0.13.9

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    CAPTUNE_CACHE=/cache CAPTUNE_CONFIG=/cache/config HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/cache/matplotlib

WORKDIR /build
COPY requirements/demo.txt ./requirements/
# Every file is held to its hash, but for the two of torch where they come from torch's own index.
# hadolint ignore=SC2046
RUN set -eu; \
    case "$BACKEND" in \
    cpu) drop='^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' ;; \
    cuda) drop='^$' ;; \
    *) echo "BACKEND is cpu or cuda, not $BACKEND" >&2; exit 2 ;; \
    esac; \
    awk -v drop="$drop" '/^[^ ]/ { kept = $0 !~ drop } kept' requirements/demo.txt > locked.txt; \
    if [ "$BACKEND" = cpu ]; then \
        pip install "uv==$UV_VERSION"; \
        uv pip install --system --no-cache --no-deps --torch-backend cpu \
            $(grep -oE '^(torch|torchvision)==[0-9.]+' requirements/demo.txt); \
        pip uninstall --yes uv; \
    fi; \
    pip install --require-hashes --no-deps --requirement locked.txt

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY packages ./packages
RUN pip install --no-deps --no-build-isolation . ./packages/captune-metrics ./packages/captune-lite

# The embedded weights; whoever runs the image may add features to the cache.
RUN captune models fetch lite && captune models fetch lite --decoder && chmod -R a+rwX /cache
RUN useradd --create-home --uid 1000 captune

# From here on nothing is fetched.
ENV CAPTUNE_OFFLINE=1 HF_HUB_OFFLINE=1
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["captune"]
CMD ["--help"]
