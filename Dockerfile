# docker build --build-arg VERSION=$(git describe --tags --always --dirty) -t bpfnet .
# docker run -d --name bpfnet --restart always --privileged --network host --pid host -v /run:/run bpfnet daemon --etcd-endpoints …
# (the host's PIDs, to keep the pins in the host's mounts and to see a flanneld that still runs)
# The BPF objects are part of the source: no clang here.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN make build VERSION="$VERSION"

FROM debian:12-slim
# iptables, in both variants, for the host's FORWARD chain; certificates for etcd servers of a public authority.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates iptables && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/bin/bpfnet /usr/bin/bpfnet
RUN ln -s bpfnet /usr/bin/flanneld
ENTRYPOINT ["/usr/bin/bpfnet"]
CMD ["daemon"]
