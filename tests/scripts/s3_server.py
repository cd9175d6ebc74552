"""An S3 server on this machine, in memory: `s3_server.py PORT_FILE KEY_ID BUCKET`.

Writes its port to PORT_FILE once it listens, and then reads commands from its standard input: `down`
closes the port, `up` opens it again, `busy N WORD` answers the next N requests with that word in
their name with 503, `lose N` carries out the next N writes and gives no answer, `hold WORD` lets the next write with that word in its name
wait (`held` prints whether one does) until `release` carries it out, `list` prints the names of all
objects, `fetch DIRECTORY PREFIX` writes those below a prefix there, `damage NAME` changes a bit of
one, and `copy FROM TO` adds one. It ends with its input. Requests are carried out one by one, so that
a conditional write is atomic, as it is in S3.
"""

import json
import socket
import sys
import threading
from io import BytesIO
from pathlib import Path

from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

port_file, key_id, bucket = sys.argv[1:]
moto = create_backend_app("s3")
lock = threading.Lock()
faults = {"busy": 0, "lose": 0}
busy_with = ""
is_down = threading.Event()
hold = {"word": None, "held": False, "released": threading.Event()}


def refuse(start_response, status, code, message):
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


def drop(environ):
    """Ends the connection without an answer, so that the client need not wait until it gives up."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def wait_if_held(path):
    with lock:
        is_held = hold["word"] is not None and hold["word"] in path
        if is_held:
            hold.update(word=None, held=True)
    if is_held:
        # It is carried out then, whether its client still waits or not.
        hold["released"].wait()


def application(environ, start_response):
    # All of it comes first: a client that stands still in the middle holds up nobody, and an object
    # that did not arrive whole is none.
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    if len(body) < length:
        drop(environ)
    environ["wsgi.input"] = BytesIO(body)
    if f"Credential={key_id}/" not in environ.get("HTTP_AUTHORIZATION", ""):
        return refuse(start_response, "403 Forbidden", "InvalidAccessKeyId", "No such key.")
    is_write = environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
    if is_write:
        wait_if_held(environ["PATH_INFO"])
    with lock:
        if is_down.is_set():
            drop(environ)
        if faults["busy"] > 0 and busy_with in environ["PATH_INFO"]:
            faults["busy"] -= 1
            return refuse(start_response, "503 Slow Down", "SlowDown", "Reduce your rate.")
        answer = list(moto(environ, start_response))
        if is_write and faults["lose"] > 0:
            faults["lose"] -= 1
            drop(environ)
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
        is_down.set()
        server.shutdown()
        server.server_close()
    elif command == "up":
        is_down.clear()
        server = serve(port)
    else:
        with lock:
            keys = objects.buckets[bucket].keys
            if command == "list":
                answer = json.dumps(sorted(keys))
            elif command == "fetch":
                for key in [key for key in keys if key.startswith(rest[1])]:
                    path = Path(rest[0]) / key
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(keys[key].value)
            elif command == "damage":
                value = bytearray(keys[rest[0]].value)
                value[len(value) // 2] ^= 1
                keys[rest[0]].value = bytes(value)
            elif command == "copy":
                objects.put_object(bucket, rest[1], keys[rest[0]].value)
            elif command == "hold":
                hold.update(word=rest[0], held=False, released=threading.Event())
            elif command == "held":
                answer = json.dumps(hold["held"])
            elif command == "release":
                hold["word"] = None
                hold["released"].set()
            else:
                faults[command] = int(rest[0])
                busy_with = rest[1] if command == "busy" else busy_with
    print(answer, flush=True)
