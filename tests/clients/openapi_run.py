"""schemathesis against the real binary: every address answers as its description says, whatever it is sent."""

import json
import os
import pathlib
import subprocess
import sys
import urllib.request

from checks import check, env, finish, same

URL, TOKEN = env("URL"), env("TOKEN")
DOCUMENT = pathlib.Path(env("OPENAPI_FILE"))
# What a schema cannot say (the last message must be of the user, an agent of that name must be there) makes requests wrong
# that look right: they are answered 400 and not taken.
# A method that an address does not have is tried with a body: a GET with one is refused as 400 before anybody looks at the
# address. That such methods are 405 with `Allow` is shown by the gateway's own tests.
CONFIG = """
[checks]
positive_data_acceptance.enabled = false
unsupported_method.enabled = false
"""


def served_as_written():
    request = urllib.request.Request(f"{URL}/openapi.json", headers={"authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        same(json.load(answer), json.loads(DOCUMENT.read_text()))


def clean():
    config = pathlib.Path("schemathesis.toml")
    config.write_text(CONFIG)
    command = [
        str(pathlib.Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", str(DOCUMENT),
        "--url", URL, "--header", f"Authorization: Bearer {TOKEN}", "--phases", "examples,coverage,fuzzing",
        "--max-examples", "40" if os.environ.get("GATEWAY_LONG") else "8", "--seed", "1", "--continue-on-failure",
        "--generation-database", "none", "--request-timeout", "20", "--no-color", "--warnings", "off",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode}\n{done.stdout[-12000:]}\n{done.stderr[-2000:]}")
    print("    " + "\n    ".join(line for line in done.stdout.splitlines()[-25:] if line.strip()))


check("the description is served as it is in docs/", served_as_written)
check("schemathesis finds nothing", clean)
finish()
