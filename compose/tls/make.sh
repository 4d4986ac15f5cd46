#!/bin/sh
# Make a certificate authority and a certificate per Redis, for compose.tls.yaml. Nothing that exists is changed.
#   ./make.sh                  what is missing
#   ./make.sh renew NAME       the certificate of NAME (redis, redis-streams, redis-queue, redis-queue-2 or client) anew, signed by the same authority
#   ALSO=DNS:redis.example.com ./make.sh      a further name in the certificates that are made
# They lie in tls/made/ (TLS_DIR), which only you may enter. ca.key signs whatever you trust: keep it elsewhere when done.
set -eu
cd "$(dirname "$0")/.."
[ -n "${TLS_DIR:-}" ] || TLS_DIR=$(sed -n 's/^TLS_DIR=//p' .env 2>/dev/null || true)
directory=${TLS_DIR:-tls/made}
names="redis redis-streams redis-queue redis-queue-2 client"
command -v openssl >/dev/null || { echo "make.sh: install openssl" >&2; exit 1; }

umask 077
mkdir -p "$directory"
chmod 0700 "$directory"

case ${1:-} in
"") ;;
renew)
    case " $names " in
    *" ${2:-} "*) rm -f "$directory/$2.crt" "$directory/$2.key" ;;
    *) echo "make.sh: say which: $names" >&2; exit 2 ;;
    esac
    ;;
*) echo "make.sh: '$1' is not known; it is: ./make.sh [renew NAME]" >&2; exit 2 ;;
esac

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

if [ ! -s "$directory/ca.crt" ]; then
    key "$directory/ca.key"
    openssl req -x509 -new -key "$directory/ca.key" -days 3650 -subj "/CN=arqscope" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -out "$directory/ca.crt"
    echo "made $directory/ca.crt"
fi

for name in $names; do
    [ -s "$directory/$name.crt" ] && continue
    usage=serverAuth
    [ "$name" = client ] && usage=clientAuth
    key "$directory/$name.key"
    # localhost: for redis-cli inside the container and on the loopback ports.
    cat >"$directory/.$name.ext" <<EXT
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=$usage
subjectAltName=DNS:$name,DNS:localhost,IP:127.0.0.1${ALSO:+,$ALSO}
EXT
    openssl req -new -key "$directory/$name.key" -subj "/CN=$name" |
        openssl x509 -req -CA "$directory/ca.crt" -CAkey "$directory/ca.key" -CAcreateserial -days 397 \
            -extfile "$directory/.$name.ext" -out "$directory/$name.crt" 2>/dev/null
    rm "$directory/.$name.ext"
    # The processes in the containers are other users; they see only the files that are given to them.
    chmod 0444 "$directory/$name.crt" "$directory/$name.key"
    echo "made $directory/$name.crt, until $(openssl x509 -in "$directory/$name.crt" -noout -enddate | cut -d= -f2)"
done
chmod 0444 "$directory/ca.crt"
