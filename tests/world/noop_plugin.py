"""A CNI plugin that a file tells what to answer, and that records what it got. Installed by copying, under any name.

Beside the executable PLUGIN may lie PLUGIN.json, {COMMAND: {"status", "stdout", "stderr", "sleep", "signal", "run"}};
every run appends one line of JSON to PLUGIN.calls. Without instructions ADD passes the result on, or makes one.
"""

import json
import os
import sys
import time

began = time.monotonic()
me = sys.argv[0]
command = os.environ["CNI_COMMAND"]
text = sys.stdin.read()
with open(me + ".calls", "a") as calls:
    calls.write(
        json.dumps({"command": command, "env": dict(os.environ), "stdin": text, "time": began}) + "\n"
    )
try:
    with open(me + ".json") as file:
        told = json.load(file).get(command, {})
except FileNotFoundError:
    told = {}
time.sleep(told.get("sleep", 0))
if "run" in told:  # half of the work, perhaps
    os.system(told["run"])
if "signal" in told:
    os.kill(os.getpid(), told["signal"])
answer = told.get("stdout", "")
if "stdout" not in told:
    request = json.loads(text)
    if command == "VERSION":
        answer = json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]})
    elif command == "ADD":
        fresh = {"cniVersion": request["cniVersion"], "ips": [{"address": "10.9.0.2/24"}]}
        answer = json.dumps(request.get("prevResult") or fresh)
sys.stdout.write(answer)
sys.stderr.write(told.get("stderr", ""))
sys.stdout.flush()
sys.stderr.flush()
os._exit(told.get("status", 0))
