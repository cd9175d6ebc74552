"""An S3 server on this machine, in memory: `s3_server.py PORT_FILE KEY_ID BUCKET`.

Writes its port to PORT_FILE once it listens, and then reads commands from its standard input: `down`
closes the port, `up` opens it again, `busy N` answers the next N requests with 503, `lose N` carries
out the next N writes and gives no answer, `list` prints the names of all objects, `fetch DIRECTORY`
writes them there, and `damage NAME` changes a bit of one. It ends with its input. Requests are carried out one by
one, so that a conditional write is atomic, as it is in S3.
"""

import json
import sys
import threading
from pathlib import Path

from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

port_file, key_id, bucket = sys.argv[1:]
moto = create_backend_app("s3")
lock = threading.Lock()
faults = {"busy": 0, "lose": 0}


def refuse(start_response, status, code, message):
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


def application(environ, start_response):
    # What is not read would be taken for the next request.
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if f"Credential={key_id}/" not in environ.get("HTTP_AUTHORIZATION", ""):
        environ["wsgi.input"].read(length)
        return refuse(start_response, "403 Forbidden", "InvalidAccessKeyId", "No such key.")
    with lock:
        if faults["busy"] > 0:
            faults["busy"] -= 1
            environ["wsgi.input"].read(length)
            return refuse(start_response, "503 Slow Down", "SlowDown", "Reduce your rate.")
        answer = list(moto(environ, start_response))
        if faults["lose"] > 0 and environ["REQUEST_METHOD"] != "GET":
            faults["lose"] -= 1
            raise ConnectionAbortedError("this answer is lost")
        return answer


def serve(port):
    server = make_server("127.0.0.1", port, application, threaded=True)
    server.log = lambda *_: None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


objects = s3_backends["123456789012"]["aws"]
objects.create_bucket(bucket, "us-east-1")
server = serve(0)
port = server.port
with open(port_file, "w") as file:
    file.write(f"{port}\n")
for line in sys.stdin:
    command, *rest = line.split()
    answer = "done"
    if command == "down":
        server.shutdown()
        server.server_close()
    elif command == "up":
        server = serve(port)
    else:
        with lock:
            keys = objects.buckets[bucket].keys
            if command == "list":
                answer = json.dumps(sorted(keys))
            elif command == "fetch":
                for key in keys:
                    path = Path(rest[0]) / key
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(keys[key].value)
            elif command == "damage":
                value = bytearray(keys[rest[0]].value)
                value[len(value) // 2] ^= 1
                keys[rest[0]].value = bytes(value)
            else:
                faults[command] = int(rest[0])
    print(answer, flush=True)
