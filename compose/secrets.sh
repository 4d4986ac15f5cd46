#!/bin/sh
# Make the secrets of this deployment: a password per Redis login, the API key, the logins' files. Nothing that exists is changed.
#   ./secrets.sh                what is missing
#   ./secrets.sh rotate NAME    NAME anew: worker, processor, producer, dashboard, operator, metrics, admin, api_key or payload_key
# They lie in secrets/ (SECRETS_DIR), which only you may enter; the files in it are readable, because the processes in the
# containers are other users and see nothing but the files that are given to them.
set -eu
cd "$(dirname "$0")"
[ -n "${SECRETS_DIR:-}" ] || SECRETS_DIR=$(sed -n 's/^SECRETS_DIR=//p' .env 2>/dev/null || true)
directory=${SECRETS_DIR:-secrets}
logins="worker processor producer dashboard operator metrics admin"

umask 077
mkdir -p "$directory"
chmod 0700 "$directory"

generate() { # 256 random bits: Redis tells 400,000 guesses a second whether they are right
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

keep() { # NAME: a new secret unless there is one
    [ -s "$directory/$1" ] && return 0
    generate >"$directory/.$1.new"
    chmod 0444 "$directory/.$1.new"
    mv "$directory/.$1.new" "$directory/$1"
    echo "made $directory/$1"
}

file_of() {
    case $1 in
    api_key | payload_key) echo "$1" ;;
    *) echo "redis_$1" ;;
    esac
}

if [ "${1:-}" = rotate ]; then
    name=${2:?"say which: $logins api_key payload_key"}
    case " $logins api_key payload_key " in
    *" $name "*) rm -f "$directory/$(file_of "$name")" ;;
    *) echo "secrets.sh: there is no secret '$name'; there are: $logins api_key payload_key" >&2; exit 2 ;;
    esac
elif [ -n "${1:-}" ]; then
    echo "secrets.sh: '$1' is not known; it is: ./secrets.sh [rotate NAME]" >&2
    exit 2
fi

for login in $logins; do keep "redis_$login"; done
keep api_key
keep payload_key

for role in queue streams cache; do
    text=$(grep -v '^#' "redis/$role.acl")
    for login in $logins; do
        digest=$(printf %s "$(cat "$directory/redis_$login")" | sha256sum | cut -d' ' -f1)
        text=$(printf '%s\n' "$text" | sed "s/@$login@/$digest/")
    done
    printf '%s\n' "$text" >"$directory/.$role.new"
    chmod 0444 "$directory/.$role.new"
    # Written over, not replaced: a container holds on to the file it was given, not to its name.
    if [ -e "$directory/users-$role.acl" ]; then
        chmod 0600 "$directory/users-$role.acl"
        cat "$directory/.$role.new" >"$directory/users-$role.acl"
        chmod 0444 "$directory/users-$role.acl"
        rm "$directory/.$role.new"
    else
        mv "$directory/.$role.new" "$directory/users-$role.acl"
    fi
done

[ -e .env ] || { cp env.example .env && chmod 0600 .env && echo "made .env from env.example"; }
