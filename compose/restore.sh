#!/bin/sh
# Restore what backup.sh made into an empty deployment, and start nothing: ./restore.sh DIRECTORY && docker compose up -d
# Refuses where there is data. To give up what is there: docker compose down --volumes
set -eu
cd "$(dirname "$0")"
source=${1:?"say where from: ./restore.sh DIRECTORY"}
compose=${COMPOSE:-$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)}
(cd "$source" && sha256sum --check --quiet SHA256SUMS) || { echo "restore.sh: $source is damaged" >&2; exit 1; }

unpack='[ -z "$(ls -A "$0")" ] || { echo "there is data already; see the first lines of restore.sh" >&2; exit 3; }; tar -C "$0" -xf -'
here=$($compose config --services)
for file in "$source"/redis*.tar; do # asked before the first is unpacked
    service=$(basename "$file" .tar)
    echo "$here" | grep -qx "$service" ||
        { echo "restore.sh: there is a copy of $service, and none here: COMPOSE=\"$compose -f …\" names the files" >&2; exit 2; }
done
for service in redis-streams $(echo "$here" | grep '^redis-queue' | sort) redis; do
    [ -e "$source/$service.tar" ] || { echo "restore.sh: no copy of $service: it begins empty" >&2; continue; }
    $compose run --rm -T --no-deps --entrypoint sh $service -c "$unpack" /data <"$source/$service.tar"
done
$compose run --rm -T --no-deps --entrypoint sh dlq-processor -c "$unpack" /var/lib/arqscope <"$source/letters.tar"
echo "restored; start it: $compose up -d"
