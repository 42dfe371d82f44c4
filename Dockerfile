# tacho alone; see compose.yaml for the distributed shape.
FROM golang:1.26 AS build
WORKDIR /src
COPY . .
RUN CGO_ENABLED=0 go build -o /tacho ./services/cmd/tacho

FROM debian:12-slim
COPY --from=build /tacho /usr/local/bin/tacho
USER 65532
ENTRYPOINT ["tacho"]
