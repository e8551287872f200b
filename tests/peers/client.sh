#!/bin/sh
# curl: client.sh <host> <server>=<port>... ; a server whose name ends in h2 is spoken HTTP/2 to.
# Each operation writes `@<server>.curl.<operation>`, what curl shows of the answer, and how it ended.
host=$1
shift
big=$(mktemp)
trap 'rm -f "$big"' EXIT
head -c 2000000 /dev/zero >"$big"

for server in "$@"; do
  name=${server%=*} port=${server#*=} version=--http1.1
  case $name in *h2) version=--http2-prior-knowledge ;; esac
  one() {
    operation=$1 target=$2
    shift 2
    echo "@$name.curl.$operation"
    curl -sS -i --path-as-is --max-time 10 $version "$@" "http://$host:$port$target?op=$name.curl.$operation" 2>&1 |
      tr -d '\r\000' | sed -e 's#^HTTP/1\.[01] #HTTP/1 #' -e 's/^\([A-Za-z0-9-]\{1,\}\): /> \1: /' -e 's/^> curl: /error /' -e 's/port [0-9]*/port/'
    echo
  }
  one get /echo -H 'X-Order-B: 1' -H 'x-order-a: 2'
  one twice /echo -H 'X-Twice: 1' -H 'X-Twice: 2' -H 'X-Empty;'
  one post /echo -d body
  one chunked-up /echo -d body -H 'Transfer-Encoding: chunked'
  one get-chunked /echo -X GET -d body -H 'Transfer-Encoding: chunked'
  one put /echo -X PUT -d put -H 'Content-Type: text/plain'
  one upload /echo -T "$big"
  one head /echo -I
  one delete /echo -X DELETE
  one options /echo -X OPTIONS
  one expect /echo -d body -H 'Expect: 100-continue'
  one odd '/echo/a<b>^{c}|`d`/../x' -g
  one chunked /chunked
  one trailers /trailers -H 'TE: trailers'
  one trailers-unasked /trailers
  one hints /hints
  one reason /reason
  one 404 /status/404
  one 299 /status/299
  one empty /empty
  one early /early --data-binary "@$big"
  one early-expect /early --data-binary "@$big" -H 'Expect: 100-continue'
  one close /close
  one old /old
  one abort /abort
  one asked-to-close /echo -H 'Connection: close'
  case $name in *h2) ;; *) one http1.0 /echo --http1.0 && one http1.0-post /echo --http1.0 -d body ;; esac
done
