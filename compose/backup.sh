#!/bin/sh
# Back up the Redis servers and the spilled dead letters while everything runs: ./backup.sh DIRECTORY
# An append-only file only grows, so a copy of it is the state of one moment. Streams first: an event that is handled again makes
# no second job, but an event taken as handled, whose job is in no backup, would be lost.
# COMPOSE="docker compose -p name -f …" names another project. The secrets are not in it: keep secrets/ elsewhere, and safe.
set -eu
cd "$(dirname "$0")"
[ -n "${SECRETS_DIR:-}" ] || SECRETS_DIR=$(sed -n 's/^SECRETS_DIR=//p' .env 2>/dev/null || true)
target=${1:?"say where to: ./backup.sh DIRECTORY"}
compose=${COMPOSE:-$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)}
umask 077
mkdir -p "$target"
[ -z "$(ls -A "$target")" ] || { echo "backup.sh: $target is not empty; name another folder" >&2; exit 2; }

# No rewrite while we copy: it would exchange the files under us. The password comes on stdin, for no command line shows it.
copy='
read -r REDISCLI_AUTH; export REDISCLI_AUTH
tls=; [ -e /run/secrets/ca.crt ] && tls="--tls --cacert /run/secrets/ca.crt -h localhost"
cli() { redis-cli $tls --user admin --no-auth-warning "$@"; }
[ "$(cli config set auto-aof-rewrite-percentage 0)" = OK ] || exit 4
while cli info persistence | grep -qE "aof_rewrite_(in_progress|scheduled):1"; do sleep 0.2; done
tar -C /data -cf - appendonlydir 2>/dev/null; code=$?
cli config set auto-aof-rewrite-percentage 100 >/dev/null
[ $code -le 1 ]  # 1: it grew while it was read, which is what it does
'
# Nobody carries jobs from one queue server to another meanwhile: one that had left its server when that was copied, and had
# not arrived when the other was, would be in neither copy.
queues=$($compose config --services | grep '^redis-queue' | sort)
carry() { case $queues in *redis-queue-*) $compose "$1" dlq-processor ;; esac; }
carry pause
trap 'carry unpause' EXIT
trap 'exit 1' INT TERM
for service in redis-streams $queues redis; do
    cat "${SECRETS_DIR:-secrets}/redis_admin" - <<E2 | $compose exec -T $service sh -c "$copy" >"$target/$service.tar"

E2
    tar -tf "$target/$service.tar" appendonlydir/appendonly.aof.manifest >/dev/null ||
        { echo "backup.sh: the copy of $service is not complete" >&2; exit 1; }
done
trap - EXIT
carry unpause
$compose exec -T dlq-processor tar -C /var/lib/arqscope -cf - . >"$target/letters.tar" </dev/null
(cd "$target" && sha256sum ./*.tar >SHA256SUMS)
echo "backed up to $target: $(du -sh "$target" | cut -f1)"
