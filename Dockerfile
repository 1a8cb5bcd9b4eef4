# docker build --build-arg VERSION=$(git describe --tags --always --dirty) -t bpfnet .
# The BPF objects are part of the source: no clang here.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN make build VERSION="$VERSION"

FROM scratch
# For etcd servers whose certificates come from a public authority.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/bin/bpfnet /bpfnet
ENTRYPOINT ["/bpfnet"]
CMD ["daemon"]
