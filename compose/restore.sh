#!/bin/sh
# Restore what backup.sh made into an empty deployment, and start nothing: ./restore.sh DIRECTORY && docker compose up -d
# Refuses where there is data. To give up what is there: docker compose down --volumes
set -eu
cd "$(dirname "$0")"
source=${1:?"say where from: ./restore.sh DIRECTORY"}
compose=${COMPOSE:-$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)}
(cd "$source" && sha256sum --check --quiet SHA256SUMS) || { echo "restore.sh: $source is damaged" >&2; exit 1; }

unpack='[ -z "$(ls -A "$0")" ] || { echo "there is data already; see the first lines of restore.sh" >&2; exit 3; }; tar -C "$0" -xf -'
for service in redis-streams redis-queue redis; do
    $compose run --rm -T --no-deps --entrypoint sh $service -c "$unpack" /data <"$source/$service.tar"
done
$compose run --rm -T --no-deps --entrypoint sh dlq-processor -c "$unpack" /var/lib/arqscope <"$source/letters.tar"
echo "restored; start it: $compose up -d"
